//! Timer-activated scripts.

use restart_agent::core::effect::Effect;
use restart_agent::core::policy::{After, Overdue, ScheduledRules, TargetRules};
use sim::explore::Story;
use sim::host::{Deed, Host, span};
use sim::world::{By, HOUR, MINUTE, MS, OnTerm, S, START, Script, Unit, Us, World};

use super::{abort, and, begins, deploy, deploys, emergency, hold, release, then, trigger};
use crate::given::{SCRIPT, adopted, policy, script_rules, with_target, world};

/// Rules that need little time.
pub(super) fn quick(after: After) -> ScheduledRules {
    ScheduledRules { drain_timeout: span(3 * S), term_timeout: span(4 * S), hold_timeout: span(8 * S), ..script_rules(after) }
}

pub(super) fn asking(after: After) -> ScheduledRules {
    ScheduledRules { checkpoint_timeout: span(5 * S), ..quick(after) }
}

/// One script that has run for a minute, and whose next slot is in half the period.
pub(super) fn host_of(rules: ScheduledRules, unit: Unit, every: Us) -> Host {
    let mut world = world();
    let name = unit.name.clone();
    world.add(unit, 60 * S);
    if every > 0 {
        let phase = world.now + every / 2;
        world.timer(&name, every, phase);
    }
    adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules)))
}

pub(super) fn script(script: Script) -> Unit {
    Unit::script(SCRIPT, script)
}

pub(super) fn host(rules: ScheduledRules, of: Script) -> Host {
    host_of(rules, script(of), HOUR)
}

pub(super) fn on_term(on_term: OnTerm) -> Script {
    Script { on_term, ..Script::default() }
}

pub(super) fn exits(status: i32, after: Us) -> Script {
    on_term(OnTerm::Exits { status, after })
}

fn runs(host: &Host) -> usize {
    host.world.units[SCRIPT].runs.len()
}

fn cut(host: &Host) -> bool {
    host.casualties().len() == 1
}

fn uncut(host: &Host) -> bool {
    host.casualties().is_empty()
}

/// Its first stop came so long after it was adopted.
fn stopped_after(host: &Host, span: Us) -> bool {
    let stop = host.done.iter().find(|(_, effect)| matches!(effect, Effect::Stop { .. }));
    stop.is_some_and(|(at, _)| *at > START + 10 * S + span)
}

fn started(host: &Host) -> bool {
    host.done.iter().any(|(_, effect)| matches!(effect, Effect::Start { .. }))
}

pub fn stories() -> Vec<Story> {
    let mut stories = Vec::new();
    for after in [After::Rerun, After::UntilNext, After::Auto] {
        stories.push(
            Story::new(format!("script: stopped, {after:?}"), 30, move || deploy(host(quick(after), Script::default())))
                .shows(move |host| cut(host) && (runs(host) == 2) == (after == After::Rerun))
                .as_planned(),
        );
        stories.push(
            Story::new(format!("script: at a checkpoint, {after:?}"), 30, move || {
                deploy(host(asking(after), Script { checkpoint: Some(2 * S), ..Script::default() }))
            })
            .shows(uncut)
            .always(move |host| (runs(host) == 2) == (after != After::UntilNext))
            .as_planned(),
        );
        stories.push(Story::new(format!("script: its slot comes in the middle, {after:?}"), 60, move || {
            let slow = Script { on_term: OnTerm::Exits { status: 143, after: 3 * S }, ..Script::default() };
            deploy(host_of(quick(after), script(slow), 40 * S))
        }));
    }
    stories.extend([
        Story::new("script: stopped, Auto without a timer", 30, || deploy(host_of(quick(After::Auto), script(Script::default()), 0)))
            .shows(|host| cut(host) && runs(host) == 2)
            .as_planned(),
        Story::new("script: stopped, Auto with a far slot", 30, || {
            deploy(host_of(ScheduledRules { quiet_within: span(60 * S), ..quick(After::Auto) }, script(Script::default()), HOUR))
        })
        .shows(|host| cut(host) && runs(host) == 2),
        Story::new("script: ends by itself in the drain", 30, || {
            deploy(host(quick(After::Rerun), Script { next_runs: [72 * S].into(), ..Script::default() }))
        })
        .shows(uncut),
        Story::new("script: let finish", 30, || {
            deploy(host(ScheduledRules { overdue: Some(Overdue::Finish), ..quick(After::Rerun) }, Script::default()))
        })
        .shows(|host| uncut(host) && runs(host) == 1)
        .as_planned(),
        Story::new("script: asked, then let finish", 30, || {
            deploy(host(ScheduledRules { overdue: Some(Overdue::Finish), ..asking(After::Rerun) }, Script::default()))
        })
        .shows(|host| uncut(host) && runs(host) == 1)
        .as_planned(),
        Story::new("script: overdue = stop with OnSuccess= and OnFailure=", 30, || {
            let rules = ScheduledRules { overdue: Some(Overdue::Stop), ..quick(After::Rerun) };
            deploy(host_of(rules, Unit { on_success: true, on_failure: true, ..script(Script::default()) }, HOUR))
        })
        .shows(cut),
        Story::new("script: OnSuccess= and OnFailure=", 30, || {
            deploy(host_of(quick(After::Rerun), Unit { on_success: true, on_failure: true, ..script(Script::default()) }, HOUR))
        })
        .shows(uncut)
        .as_planned(),
        Story::new("script: OnSuccess=", 30, || {
            deploy(host_of(quick(After::Rerun), Unit { on_success: true, ..script(exits(0, S)) }, HOUR))
        })
        .shows(|host| host.world.units[SCRIPT].fired.0 == 0),
        Story::new("script: refuses a manual stop", 30, || {
            deploy(host_of(quick(After::Rerun), Unit { refuse_stop: true, ..script(Script::default()) }, HOUR))
        })
        .shows(uncut)
        .as_planned(),
        Story::new("script: refuses a manual start", 30, || {
            let mut host = host(quick(After::Rerun), Script::default());
            host.world.units.get_mut(SCRIPT).unwrap().refuse_start = true;
            deploy(host)
        })
        .shows(|host| cut(host) && runs(host) == 1),
        Story::new("script: transient", 30, || {
            deploy(host_of(quick(After::Rerun), Unit { transient: true, ..script(Script::default()) }, 0))
        })
        .shows(cut),
        Story::new("script: wrapper with a stubborn child", 30, || {
            deploy(host(quick(After::Rerun), Script { stubborn_child: true, ..exits(143, S) }))
        })
        .shows(|host| cut(host) && runs(host) == 2),
        Story::new("script: ignores SIGTERM", 30, || deploy(host(quick(After::Rerun), on_term(OnTerm::Ignores))))
            .shows(|host| host.casualties().iter().any(|casualty| casualty.ended_by == "SIGKILL"))
            .as_planned(),
        // Its ExecStopPost= gets the time of a SIGKILL, and one of its own.
        Story::new("script: killed, and leaves an ExecStopPost= that lasts", 60, || {
            deploy(host(quick(After::Rerun), Script { stop_post: 20 * S, ..on_term(OnTerm::Ignores) }))
        })
        .shows(|host| cut(host) && runs(host) == 2 && !host.memory().totals.rollouts.contains_key("failed")),
        Story::new("script: cannot be killed", 90, || {
            let stuck = Script { on_term: OnTerm::Ignores, unkillable_for: 60 * S + 40 * S, ..Script::default() };
            deploy(host(quick(After::Rerun), stuck))
        }),
        Story::new("script: exits 0 when stopped", 30, || deploy(host(quick(After::Rerun), exits(0, S)))).shows(|host| runs(host) == 2),
        Story::new("script: exits 143 when stopped", 30, || deploy(host(quick(After::Rerun), exits(143, S)))).shows(cut),
        Story::new("script: exits 75 when stopped", 30, || deploy(host(quick(After::Rerun), exits(75, S)))).shows(|host| runs(host) == 2),
        Story::new("script: exits 1 when stopped", 30, || deploy(host(quick(After::Rerun), exits(1, S)))).shows(|host| runs(host) == 2),
        Story::new("script: several ExecStart=", 30, || deploy(host(quick(After::Rerun), Script { steps: 3, ..Script::default() })))
            .shows(|host| cut(host) && runs(host) == 2),
        Story::new("script: several ExecStart=, which exit 0", 30, || {
            deploy(host(quick(After::Rerun), Script { steps: 2, ..exits(0, S) }))
        })
        .shows(|host| runs(host) == 2),
        Story::new("script: several ExecStart=, one ends in the drain", 30, || {
            deploy(host(quick(After::Rerun), Script { steps: 2, next_runs: [72 * S].into(), ..Script::default() }))
        })
        .shows(|host| runs(host) <= 2),
        Story::new("script: asked, and does not listen", 30, || deploy(host(asking(After::Rerun), Script::default())))
            .shows(cut)
            .as_planned(),
        Story::new("script: asked by a command", 30, || {
            let argv = |name: &str| vec![format!("/usr/local/bin/{name}-{{unit}}")];
            let rules = ScheduledRules { ask: argv("ask"), unask: argv("unask"), ..asking(After::Rerun) };
            deploy(host(rules, Script { checkpoint: Some(2 * S), ..Script::default() }))
        })
        .shows(|host| runs(host) == 2),
        Story::new("script: holds its lock and lets go", 30, || {
            deploy(host(quick(After::Rerun), Script { holds: 78 * S, ..Script::default() }))
        })
        .shows(cut)
        .as_planned(),
        Story::new("script: holds its lock beyond the cap", 40, || {
            deploy(host(quick(After::Rerun), Script { holds: HOUR, ..Script::default() }))
        })
        .shows(cut)
        .as_planned(),
        Story::new("script: asked, holds its lock, ignores SIGTERM", 60, || {
            deploy(host(asking(After::Rerun), Script { holds: HOUR, on_term: OnTerm::Ignores, ..Script::default() }))
        })
        .shows(cut),
        Story::new("script: a rerun that settles", 60, || {
            deploy(host(ScheduledRules { settle_after: span(15 * S), ..quick(After::Rerun) }, Script::default()))
        })
        .shows(|host| cut(host) && runs(host) == 2),
        Story::new("script: interrupted too often", 120, || {
            let rules = ScheduledRules { max_interruptions: 2, ..quick(After::Rerun) };
            deploys(host(rules, Script::default()), &[0, 30 * S, 60 * S, 90 * S])
        })
        .shows(|host| host.casualties().len() == 2),
        Story::new("script: in an emergency", 20, || {
            and(host(asking(After::Rerun), Script { holds: HOUR, ..Script::default() }), 0, emergency())
        })
        .shows(cut),
        Story::new("script: an emergency in the drain", 20, || {
            and(deploy(host(quick(After::Rerun), Script { holds: HOUR, ..Script::default() })), 2 * S, emergency())
        })
        .shows(cut),
        Story::new("script: triggered", 20, || and(host(quick(After::Rerun), Script::default()), 0, trigger(false, false))).shows(cut),
        Story::new("script: two deploys in 10 ms", 30, || deploys(host(quick(After::Rerun), Script::default()), &[0, 10 * MS])).shows(cut),
        Story::new("script: a deploy in the drain", 40, || deploys(host(quick(After::Rerun), Script::default()), &[0, 2 * S])),
        Story::new("script: a deploy in the stop", 40, || deploys(host(quick(After::Rerun), on_term(OnTerm::Ignores)), &[0, 6 * S]))
            .shows(|host| !uncut(host)),
        Story::new("script: a deploy at the rerun", 40, || deploys(host(quick(After::Rerun), Script::default()), &[0, 4100 * MS]))
            .shows(|host| !uncut(host)),
        Story::new("script: held in the drain", 40, || {
            and(and(deploy(host(quick(After::Rerun), Script::default())), 2 * S, hold(None)), 20 * S, release())
        })
        .shows(cut),
        Story::new("script: held in the stop", 40, || {
            and(and(deploy(host(quick(After::Rerun), on_term(OnTerm::Ignores))), 6 * S, hold(None)), 20 * S, release())
        })
        .shows(cut),
        Story::new("script: held while it waits for its loan", 60, || {
            let host = then(deploy(host(quick(After::Rerun), Script::default())), 0, "Reload fails", |world: &mut World| {
                world.faults.reload_fails_until = world.now + 4 * S;
            });
            and(and(host, 3800 * MS, hold(None)), 20 * S, release())
        })
        .shows(|host| cut(host) && stopped_after(host, 20 * S)),
        Story::new("script: held while it was asked", 60, || {
            and(and(deploy(host(asking(After::Rerun), Script::default())), 6 * S, hold(None)), 20 * S, release())
        })
        .shows(cut),
        Story::new("script: aborted in the drain", 40, || {
            and(and(deploy(host(quick(After::Rerun), Script::default())), 2 * S, abort()), 20 * S, release())
        })
        .shows(cut),
        Story::new("script: a person stops it in the drain", 30, || {
            then(deploy(host(quick(After::Rerun), Script::default())), 2 * S, "a person stops it", |world: &mut World| {
                drop(world.person("stop", SCRIPT, By::Person));
            })
        })
        .shows(|host| runs(host) == 1),
        Story::new("script: a person starts it after the stop", 30, || {
            then(deploy(host(quick(After::UntilNext), Script::default())), 4 * S, "a person starts it", |world: &mut World| {
                drop(world.person("start", SCRIPT, By::Person));
            })
        }),
        Story::new("script: a deploy begins and is done", 40, || {
            let host = host_of(quick(After::Rerun), script(Script { next_runs: [75 * S].into(), ..Script::default() }), 20 * S);
            and(and(host, 0, begins("d2")), 12 * S, Deed::Touch("d2".to_owned()))
        }),
        Story::new("script: a deploy begins and is never done", 60, || {
            let mut host = host_of(quick(After::Rerun), script(Script { next_runs: [75 * S].into(), ..Script::default() }), 20 * S);
            let mut short = host.policy.clone();
            short.stamp.begin_timeout = span(15 * S);
            host.deed(Deed::Policy(Box::new(short)));
            host.run(S);
            and(host, 0, begins("d2"))
        }),
        Story::new("script: its target leaves the configuration in the stop", 60, || {
            let host = deploy(host(quick(After::Rerun), on_term(OnTerm::Ignores)));
            and(host, 6 * S, Deed::Policy(Box::new(policy())))
        })
        .shows(cut),
        Story::new("script: a reboot in its stop, and its timer is quicker than the agent", 60, || {
            let host = deploy(host_of(quick(After::Rerun), script(on_term(OnTerm::Ignores)), 32 * S));
            and(host, 5 * S, Deed::Reboot(3 * S))
        })
        // It was cut in the boot before, and what runs in this one nobody has touched.
        .shows(|host| cut(host) && host.casualties()[0].pid != 0 && !started(host)),
        Story::new("script: ten of them", 40, || {
            let mut world = world();
            for n in 0..10_u64 {
                let name = format!("mediawiki_job_{n}.service");
                let term = if n % 3 == 0 { OnTerm::Ignores } else { OnTerm::Exits { status: 143, after: n * 300 * MS } };
                world.add(Unit::script(&name, on_term(term)), (n + 1) * 10 * S);
                let phase = world.now + n * MINUTE;
                world.timer(&name, [HOUR, 24 * HOUR][usize::try_from(n % 2).unwrap()], phase);
            }
            let rules = ScheduledRules { quiet_within: span(2 * HOUR), ..quick(After::Auto) };
            deploy(adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules))))
        })
        .shows(|host| host.casualties().len() == 10)
        .as_planned(),
    ]);
    stories
}
