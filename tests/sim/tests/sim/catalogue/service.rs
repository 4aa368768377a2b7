//! Long-running services.

use restart_agent::core::policy::{Overdue, ServiceRules, TargetRules};
use sim::explore::Story;
use sim::host::{Host, span};
use sim::world::{Body, By, Daemon, HOUR, MS, OnTerm, S, Starts, Unit, World};

use super::{abort, and, deploy, deploys, emergency, hold, release, then};
use crate::given::{adopted, policy, with_target, world};

pub(super) const WORKER: &str = "queue-worker@1.service";

pub fn rules() -> ServiceRules {
    ServiceRules {
        units: vec!["queue-worker@*.service".to_owned()],
        exclude: Vec::new(),
        code: Vec::new(),
        drain_timeout: span(2 * S),
        checkpoint_timeout: span(0),
        hold_timeout: span(0),
        overdue: None,
        ask: Vec::new(),
        unask: Vec::new(),
        term_timeout: span(4 * S),
    }
}

fn daemon() -> Daemon {
    Daemon::default()
}

pub(super) fn host(rules: ServiceRules, daemon: Daemon) -> Host {
    let mut world = world();
    let starts = daemon.starts;
    world.add(Unit::new(WORKER, Body::Daemon(Daemon { starts: Starts::Well(20_000), ..daemon })), HOUR);
    if let Body::Daemon(daemon) = &mut world.units.get_mut(WORKER).unwrap().body {
        daemon.starts = starts;
    }
    adopted(world, with_target(policy(), "workers", TargetRules::Service(rules)))
}

fn restarts(host: &Host) -> usize {
    host.world.units[WORKER].runs.iter().filter(|(_, by)| *by == By::Agent).count()
}

fn up(host: &Host) -> bool {
    host.world.units[WORKER].active.runs()
}

fn once(host: &Host) -> bool {
    restarts(host) == 1
}

pub fn stories() -> Vec<Story> {
    let asks = || ServiceRules { checkpoint_timeout: span(5 * S), ..rules() };
    let locks = || ServiceRules { hold_timeout: span(6 * S), ..rules() };
    let until = |seconds: u64| Daemon { holds: HOUR + seconds * S, ..daemon() };
    vec![
        Story::new("service: restarted", 20, || deploy(host(rules(), daemon()))).shows(once).as_planned(),
        Story::new("service: at once", 20, || deploy(host(ServiceRules { drain_timeout: span(0), ..rules() }, daemon())))
            .shows(once)
            .as_planned(),
        Story::new("service: ignores SIGTERM", 30, || deploy(host(rules(), Daemon { on_term: OnTerm::Ignores, ..daemon() })))
            .shows(once)
            .as_planned(),
        Story::new("service: takes its time to end", 30, || {
            deploy(host(rules(), Daemon { on_term: OnTerm::Exits { status: 0, after: 3 * S }, ..daemon() }))
        })
        .shows(once),
        // Its ExecStopPost= gets the time of a SIGKILL, and one of its own.
        Story::new("service: killed, and leaves an ExecStopPost= that lasts", 60, || {
            deploy(host(rules(), Daemon { on_term: OnTerm::Ignores, stop_post: 20 * S, ..daemon() }))
        })
        .shows(|host| once(host) && !host.memory().totals.rollouts.contains_key("failed")),
        Story::new("service: at a checkpoint", 30, move || deploy(host(asks(), Daemon { checkpoint: Some(2 * S), ..daemon() })))
            .as_planned(),
        // KillMode=process: what it leaves behind runs old code.
        Story::new("service: leaves processes", 30, || deploy(host(rules(), Daemon { leaves: true, ..daemon() }))).shows(once).as_planned(),
        Story::new("service: leaves processes at a checkpoint", 30, move || {
            deploy(host(asks(), Daemon { leaves: true, checkpoint: Some(2 * S), ..daemon() }))
        })
        .shows(once)
        .as_planned(),
        // What it was lent for its restart is given back though nobody is at it any more when that has come to its end.
        Story::new("service: leaves processes, aborted in its restart", 60, || {
            let ends = OnTerm::Exits { status: 0, after: 3 * S };
            let host = deploy(host(rules(), Daemon { leaves: true, on_term: ends, ..daemon() }));
            and(and(host, 4 * S, abort()), 20 * S, release())
        })
        .shows(once),
        Story::new("service: asked, and does not listen", 30, move || deploy(host(asks(), daemon()))).shows(once).as_planned(),
        Story::new("service: asked by a command", 30, move || {
            let argv = |name: &str| vec![format!("/usr/local/bin/{name}-{{unit}}")];
            deploy(host(ServiceRules { ask: argv("ask"), unask: argv("unask"), ..asks() }, Daemon { checkpoint: Some(2 * S), ..daemon() }))
        }),
        Story::new("service: holds its lock and lets go", 30, move || deploy(host(locks(), until(15)))).shows(once).as_planned(),
        Story::new("service: holds its lock beyond the cap", 30, move || deploy(host(locks(), until(3600)))).shows(once).as_planned(),
        Story::new("service: let finish", 30, || deploy(host(ServiceRules { overdue: Some(Overdue::Finish), ..rules() }, daemon())))
            .shows(|host| restarts(host) == 0)
            .as_planned(),
        Story::new("service: asked, then let finish", 30, move || {
            deploy(host(ServiceRules { overdue: Some(Overdue::Finish), ..asks() }, daemon()))
        })
        .shows(|host| restarts(host) == 0)
        .as_planned(),
        Story::new("service: fails to start once", 30, || deploy(host(rules(), Daemon { starts: Starts::Fails(1), ..daemon() })))
            .shows(|host| restarts(host) == 2)
            .always(up),
        Story::new("service: fails to start", 60, || deploy(host(rules(), Daemon { starts: Starts::Fails(5), ..daemon() }))),
        Story::new("service: starts slowly", 60, || deploy(host(rules(), Daemon { starts: Starts::Well(20 * S), ..daemon() }))).shows(once),
        Story::new("service: cannot be killed", 60, || {
            // From an hour ago, when it was started.
            deploy(host(rules(), Daemon { on_term: OnTerm::Ignores, unkillable_for: HOUR + 40 * S, ..daemon() }))
        }),
        Story::new("service: refuses a manual stop", 30, || {
            let mut host = host(rules(), daemon());
            host.world.units.get_mut(WORKER).unwrap().refuse_stop = true;
            deploy(host)
        })
        .shows(|host| restarts(host) == 0),
        Story::new("service: in an emergency", 20, move || {
            and(host(ServiceRules { hold_timeout: span(6 * S), ..asks() }, until(3600)), 0, emergency())
        })
        .shows(once),
        Story::new("service: held in the drain", 40, || {
            and(and(deploy(host(rules(), daemon())), 1500 * MS, hold(None)), 15 * S, release())
        })
        .shows(once),
        Story::new("service: held while it was asked", 40, move || {
            and(and(deploy(host(asks(), daemon())), 4 * S, hold(None)), 15 * S, release())
        })
        .shows(once),
        Story::new("service: aborted in the restart", 40, || {
            let slow = Daemon { on_term: OnTerm::Exits { status: 0, after: 3 * S }, ..daemon() };
            and(and(deploy(host(rules(), slow)), 4 * S, abort()), 15 * S, release())
        }),
        Story::new("service: two deploys", 40, || deploys(host(rules(), daemon()), &[0, 2600 * MS])),
        Story::new("service: a person restarts it in the drain", 30, || {
            then(deploy(host(rules(), daemon())), 1500 * MS, "a person restarts it", |world: &mut World| {
                drop(world.person("restart", WORKER, By::Person));
            })
        })
        .shows(|host| restarts(host) == 0),
        Story::new("service: a person stops it in the restart", 30, || {
            let slow = Daemon { on_term: OnTerm::Exits { status: 0, after: 3 * S }, ..daemon() };
            then(deploy(host(rules(), slow)), 4 * S, "a person stops it", |world: &mut World| {
                drop(world.person("stop", WORKER, By::Person))
            })
        })
        .shows(|host| !up(host)),
        Story::new("service: a person stops it in the drain, and it takes its time", 30, || {
            let slow = Daemon { on_term: OnTerm::Exits { status: 0, after: 3 * S }, ..daemon() };
            then(deploy(host(rules(), slow)), 1500 * MS, "a person stops it", |world: &mut World| {
                drop(world.person("stop", WORKER, By::Person))
            })
        })
        .always(|host| !up(host)),
        Story::new("service: forty of them", 60, || {
            let mut world = world();
            for n in 0..40 {
                world.add(Unit::daemon(&format!("queue-worker@{n}.service")), HOUR);
            }
            deploy(adopted(world, with_target(policy(), "workers", TargetRules::Service(rules()))))
        })
        .shows(once)
        .as_planned(),
    ]
}
