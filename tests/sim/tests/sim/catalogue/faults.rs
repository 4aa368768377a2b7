//! What befalls a whole host, in the middle of a rollout of everything that it has.

use restart_agent::core::deploy::StampFault;
use restart_agent::core::event::Order;
use restart_agent::core::opcache::OpcacheRules;
use restart_agent::core::policy::{After, FpmRules, GenerationRules, ScheduledRules, StrayAction, StrayRules, TargetRules};
use sim::explore::Story;
use sim::host::{Deed, Host, span};
use sim::world::{Fpm, HOUR, Load, MINUTE, MS, OnTerm, S, Script, Template, Unit, Us};

use super::service::rules as service_rules;
use super::{and, deploy, deploys, hold, then};
use crate::generations::{TEMPLATE, host_with, rules as generation_rules};
use crate::given::{FPM, SCRIPT, adopted, fpm_rules, policy, script_rules, with_pool, with_target, world};

const DAY: i64 = 86_400_000_000;
const SOCKET: &str = "/run/php/job/current.sock";

fn load() -> Load {
    Load { every: 200 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 10, long: (8 * S, 16 * S), until: u64::MAX }
}

/// php-fpm in place, generations, scripts, workers and strays.
fn everything() -> Host {
    let mut world = world();
    world.add(Unit::fpm(FPM, Fpm { workers: 20, load: load(), ..Fpm::default() }), HOUR);
    world.add_template(Template::new(TEMPLATE, SOCKET, Fpm { workers: 8, ..Fpm::default() }, load()));
    let stubborn = Script { on_term: OnTerm::Ignores, ..Script::default() };
    let asked = Script { checkpoint: Some(2 * S), ..Script::default() };
    for (name, script) in [(SCRIPT, Script::default()), ("mediawiki_job_b.service", stubborn), ("mediawiki_job_c.service", asked)] {
        world.add(Unit::script(name, script), MINUTE);
        let phase = world.now + 20 * MINUTE;
        world.timer(name, HOUR, phase);
    }
    world.add(Unit::daemon("queue-worker@1.service"), HOUR);
    world.add_stray(11, "/user.slice/user-33.slice/session-1.scope", true, OnTerm::Dies);
    world.add_stray(12, "/user.slice/user-33.slice/session-1.scope", true, OnTerm::Ignores);
    let scripts = ScheduledRules {
        drain_timeout: span(3 * S),
        checkpoint_timeout: span(4 * S),
        term_timeout: span(4 * S),
        ..script_rules(After::Rerun)
    };
    let strays =
        StrayRules { code: vec!["php*".to_owned()], action: StrayAction::Stop, drain_timeout: span(4 * S), term_timeout: span(3 * S) };
    let rules = [
        ("jobrunner", TargetRules::PhpFpm(fpm_rules())),
        ("videoscaler", TargetRules::Generations(GenerationRules { linger: span(20 * S), ..generation_rules() })),
        ("maintenance", TargetRules::Scheduled(scripts)),
        ("workers", TargetRules::Service(service_rules())),
        ("strays", TargetRules::Strays(strays)),
    ];
    let policy = rules.into_iter().fold(with_pool(policy(), "default"), |policy, (name, rules)| with_target(policy, name, rules));
    adopted(world, policy)
}

fn fault(name: &str, seconds: u64, befalls: impl Fn(Host) -> Host + Send + Sync + 'static) -> Story {
    Story::new(format!("host: {name}"), seconds, move || befalls(deploy(everything())))
}

/// Of the wall clock. What the boot clock says is as before.
fn clock(host: Host, at: Us, by: i64) -> Host {
    then(host, at, "the clock jumps", move |world| world.wall_offset += by)
}

/// Its opcache has filled in a minute, and the guard renews it.
fn opcache(generations: bool) -> Host {
    let guard = || Some(OpcacheRules { min_free: Some(32 << 20), min_free_keys: None, max_wasted: None, every: span(10 * S) });
    if generations {
        let rules = GenerationRules { opcache: guard(), ..generation_rules() };
        let mut host = host_with(rules, |template| template.next.opcache_fills = 80 * S);
        host.world.touch("d1");
        host.run(20 * S);
        return host;
    }
    let mut world = world();
    world.add(Unit::fpm(FPM, Fpm { opcache_fills: 80 * S, ..Fpm::default() }), S);
    let rules = TargetRules::PhpFpm(FpmRules { opcache: guard(), ..fpm_rules() });
    adopted(world, with_pool(with_target(policy(), "jobrunner", rules), "default"))
}

fn rollouts(host: &Host) -> u64 {
    host.memory().next_rollout
}

/// Each of the three that are in reach of a restart or stop.
fn renewed(host: &Host) -> bool {
    let current = host.world.templates[TEMPLATE].current().unwrap_or_default();
    host.world.units[FPM].runs.len() > 1 && host.world.units[SCRIPT].runs.len() > 1 && current.starts_with("php-fpm-job@d2-")
}

pub fn stories() -> Vec<Story> {
    let full = |from: Us, to: Us| move |host: Host| and(and(host, from, Deed::DiskFull), to, Deed::DiskGood);
    let away = |from: Us, lasts: Us| {
        move |host: Host| then(host, from, "systemd goes away", move |world| world.faults.systemd_away_until = world.now + lasts)
    };
    let reload = |from: Us, lasts: Us| {
        move |host: Host| then(host, from, "Reload fails", move |world| world.faults.reload_fails_until = world.now + lasts)
    };
    let bus = |at: Us| move |host: Host| and(host, at, Deed::BusRestarts);
    let lost = |percent: u64| {
        move |mut host: Host| {
            host.world.faults.lost_hints = percent;
            host
        }
    };
    let slow = |slowness: u64| {
        move |mut host: Host| {
            host.world.faults.slowness = slowness;
            host
        }
    };
    let config = |at: Us, until: Us| {
        move |host: Host| {
            let broken = Deed::ConfigProblem(Some("config.toml:7: unknown key".to_owned()));
            and(and(and(host, at, broken), at + S, Deed::KillAgent(S)), until, Deed::ConfigProblem(None))
        }
    };
    let mut stories = vec![
        Story::new("host: everything", 45, || deploy(everything())).shows(renewed).as_planned(),
        Story::new("host: everything, three deploys", 90, || deploys(everything(), &[0, 4 * S, 11 * S])).shows(|host| rollouts(host) > 1),
        Story::new("host: everything, held", 60, || {
            let held = and(and(everything(), 0, hold(None)), S, Deed::Touch("d2".to_owned()));
            and(held, 10 * S, Deed::Order(Order::Release))
        })
        .shows(renewed),
        fault("the journal cannot be written before it", 60, full(0, 20 * S)).shows(renewed),
        fault("the journal cannot be written from the drain on", 60, full(2 * S, 20 * S)).shows(renewed),
        fault("the journal cannot be written from the stops on", 60, full(4200 * MS, 20 * S)).shows(renewed),
        fault("the journal cannot be written for a moment at the restart", 60, full(6500 * MS, 7500 * MS)).shows(renewed),
        fault("Reload fails", 60, reload(0, 15 * S)).shows(renewed),
        fault("Reload fails when it is to take back", 60, reload(5 * S, 15 * S)).shows(renewed),
        fault("the bus is away before it", 60, away(0, 10 * S)).shows(renewed),
        fault("the bus is away in the stops", 60, away(4 * S, 10 * S)).shows(renewed),
        fault("the bus is away at the restart", 60, away(6500 * MS, 3 * S)).shows(renewed),
        fault("the bus is restarted in the stops", 60, bus(4500 * MS)).shows(renewed),
        fault("the bus is restarted at the restart", 60, bus(6600 * MS)).shows(renewed),
        fault("every hint is lost", 180, lost(100)).shows(renewed),
        fault("every second hint is lost", 180, lost(50)).shows(renewed),
        fault("everything takes its time", 90, slow(40)).shows(renewed),
        fault("the configuration breaks before it", 60, config(0, 20 * S)).shows(renewed),
        fault("the configuration breaks in the drain", 60, config(3 * S, 20 * S)).shows(renewed),
        fault("the configuration breaks in the stops", 60, config(4500 * MS, 20 * S)).shows(renewed),
        fault("the stamp is spoilt in the drain", 60, |host| {
            let spoilt = Deed::SpoilStamp(StampFault::NotText { path: "/srv/deploy/stamp".to_owned() });
            and(and(host, 3 * S, spoilt), 20 * S, Deed::Touch("d3".to_owned()))
        }),
        Story::new("opcache: it is full, in place", 120, || opcache(false)).shows(|host| rollouts(host) > 0),
        Story::new("opcache: it is full, generations", 120, || opcache(true)).shows(|host| rollouts(host) > 1),
        Story::new("opcache: a deploy at the same time", 120, || deploys(opcache(false), &[48 * S])).shows(|host| rollouts(host) > 0),
    ];
    for at in [100, 2000, 4500, 6600, 9000, 15_000] {
        stories.push(fault(&format!("a reboot after {at} ms"), 60, move |host| and(host, at * MS, Deed::Reboot(3 * S))));
    }
    for (by, name) in [(DAY, "a day ahead"), (-DAY, "a day back")] {
        stories.push(Story::new(format!("host: the clock jumps {name} before it"), 60, move || deploys(clock(everything(), 0, by), &[S])));
        for at in [200, 3000, 4500, 6600, 9000] {
            stories.push(fault(&format!("the clock jumps {name} after {at} ms"), 60, move |host| clock(host, at * MS, by)).shows(renewed));
        }
        stories.push(Story::new(format!("opcache: the clock jumps {name}"), 120, move || clock(opcache(false), 40 * S, by)));
        stories.push(Story::new(format!("host: the clock jumps {name} under a hold"), 90, move || {
            let held = and(and(everything(), 0, hold(None)), S, Deed::Touch("d2".to_owned()));
            clock(held, 5 * S, by)
        }));
    }
    stories
}
