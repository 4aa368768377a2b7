//! Generations of php-fpm behind a symlink.

use restart_agent::core::policy::{AtMax, GenerationRules, ProofRules};
use sim::explore::Story;
use sim::host::{Deed, Host, span};
use sim::world::{FpmStart, Load, MS, S, Template, World};

use super::{abort, and, deploy, deploys, hold, release, then, trigger};
use crate::generations::{TEMPLATE, host_with, load, rules};

/// The way of a deploy with long requests of 20 s, which have children of up to 10 s more.
fn busy(template: &mut Template) {
    template.load = Load { every: 400 * MS, long_percent: 10, long: (5 * S, 20 * S), ..load() };
    template.children = (30, 10 * S);
}

fn plain() -> Host {
    host_with(rules(), |_| {})
}

fn set(host: Host, after: u64, act: impl FnOnce(&mut Template) + 'static) -> Host {
    then(host, after, "something changes", move |world| {
        let now = world.now;
        if let Some(template) = world.templates.get_mut(TEMPLATE) {
            act(template);
            template.available_since = now;
        }
    })
}

/// A deploy whose generation is like this.
fn bad(change: impl FnOnce(&mut Template) + 'static) -> Host {
    let proof = Some(ProofRules { script: "/srv/app/version.php".to_owned() });
    deploy(set(host_with(GenerationRules { proof, ..rules() }, |_| {}), 0, change))
}

/// It has become the one that serves, and the only one.
fn switched(host: &Host) -> bool {
    let current = host.world.templates[TEMPLATE].current().unwrap_or_default();
    current.starts_with("php-fpm-job@d2-") && host.world.running(TEMPLATE) == [current]
}

fn nothing_lost(host: &Host) -> bool {
    let template = &host.world.templates[TEMPLATE];
    (template.refused, template.dropped) == (0, 0)
}

pub fn stories() -> Vec<Story> {
    let mut stories = vec![
        Story::new("generations: a deploy", 30, || deploy(plain())).shows(switched).always(nothing_lost).as_planned(),
        Story::new("generations: long requests and their children", 90, || deploys(host_with(rules(), busy), &[5 * S]))
            .shows(switched)
            .always(nothing_lost),
        Story::new("generations: three deploys on the heels of one another", 90, || {
            deploys(host_with(rules(), busy), &[0, 1200 * MS, 7 * S])
        })
        .always(nothing_lost),
        Story::new("generations: a broken configuration", 40, || {
            let host = host_with(rules(), |_| {});
            deploy(set(host, 0, |template| template.next.config_good = false))
        }),
        Story::new("generations: a start that fails", 40, || deploy(set(plain(), 0, |template| template.next.start = FpmStart::Fails))),
        Story::new("generations: looks that take longer than a second, after a full disk", 120, || {
            let mut host = plain();
            host.world.faults.slowness = 400;
            and(and(deploy(host), 2 * S, Deed::DiskFull), 12 * S, Deed::DiskGood)
        })
        .shows(switched)
        .always(nothing_lost),
        Story::new("generations: a start that hangs", 40, || {
            deploy(set(plain(), 0, |template| template.next.start = FpmStart::NeverReady))
        }),
        Story::new("generations: it answers no ping", 40, || bad(|template| template.next.pings = false)),
        Story::new("generations: it serves old code", 40, || bad(|template| template.next.old_code = true)),
        Story::new("generations: two run at the agent's start", 60, || {
            let host = then(plain(), 0, "a person", |world| world.person_at("start", "php-fpm-job@other.service"));
            deploys(and(host, S, Deed::KillAgent(S)), &[10 * S])
        }),
        Story::new("generations: no memory", 60, || {
            let rules = GenerationRules { min_available_memory: Some(1 << 30), ..rules() };
            let host = host_with(rules, |template| template.available = 1 << 29);
            set(deploy(host), 25 * S, |template| template.available = 2 << 30)
        })
        .shows(switched),
        Story::new("generations: an emergency", 40, || {
            and(host_with(rules(), busy), 5 * S, Deed::Touch("id = \"d2\"\nforce = true\n".to_owned()))
        })
        .shows(switched),
        Story::new("generations: triggered", 40, || and(plain(), 0, trigger(false, false))),
        Story::new("generations: a symlink that cannot be switched", 60, || {
            let host = host_with(rules(), |template| template.unwritable = true);
            set(deploy(host), 30 * S, |template| template.unwritable = false)
        }),
    ];
    for after in [300, 800, 1500, 5000] {
        stories.push(Story::new(format!("generations: it dies {after} ms after it is ready"), 40, move || {
            deploy(set(plain(), 0, move |template| template.next.start = FpmStart::Dies(after * MS)))
        }));
    }
    for at in [2000, 5700, 6500, 12_000] {
        for verb in ["stop", "restart", "reload", "kill"] {
            stories.push(Story::new(format!("generations: a person does {verb} after {at} ms"), 40, move || {
                let deed = move |world: &mut World| {
                    let current = world.templates[TEMPLATE].current().unwrap();
                    world.person_at(verb, &current);
                };
                then(deploys(plain(), &[5 * S]), at * MS, "a person", deed)
            }));
        }
        for to in [None, Some("nobody"), Some("boot")] {
            let whose = to.unwrap_or("nothing");
            stories.push(Story::new(format!("generations: a person makes the symlink lead to {whose} after {at} ms"), 40, move || {
                let to = to.map(|instance| format!("/run/php/job/{instance}.sock"));
                then(deploys(plain(), &[5 * S]), at * MS, "a person", move |world| world.person_leads(TEMPLATE, to))
            }));
        }
    }
    for at in [0, 900, 1500, 3000] {
        stories.push(Story::new(format!("generations: a reboot after {at} ms"), 60, move || {
            and(deploy(host_with(rules(), busy)), at * MS, Deed::Reboot(3 * S))
        }));
    }
    for at_max in [AtMax::Wait, AtMax::EndOldest] {
        stories.push(Story::new(format!("generations: at most two, {at_max:?}"), 120, move || {
            deploys(host_with(GenerationRules { max_generations: 2, at_max, ..rules() }, busy), &[4 * S, 6 * S, 8 * S])
        }));
    }
    for (deed, name, at) in
        [(hold as fn(_) -> Deed, "held", 300), (hold, "held", 2500), (|_| abort(), "aborted", 700), (|_| abort(), "aborted", 1500)]
    {
        stories.push(Story::new(format!("generations: {name} after {at} ms"), 60, move || {
            let host = deploy(host_with(GenerationRules { linger: span(4 * S), ..rules() }, busy));
            and(and(host, at * MS, deed(None)), 40 * S, release())
        }));
    }
    stories
}
