//! The crossing: every kind of script and of service, with everything that may befall it, alone and two at a time, at moments around its stop.

use restart_agent::core::policy::{After, ScheduledRules, ServiceRules};
use sim::explore::Story;
use sim::host::{Deed, Host, span};
use sim::world::{By, Daemon, HOUR, MS, OnTerm, S, Script, Starts, Unit, Us};

use super::scheduled::{asking, exits, host, host_of, on_term, quick, script};
use super::service::{self, WORKER};
use super::{abort, and, deploy, emergency, hold, release, then};
use crate::given::{SCRIPT, policy};

/// What lands at once meets it.
type Make = fn() -> Host;
/// It befalls this unit then.
type Befall = fn(Host, Us, &'static str) -> Host;

fn scripts() -> Vec<(&'static str, Make)> {
    vec![
        ("one", || host(quick(After::Rerun), Script::default())),
        ("with a far slot", || {
            host_of(ScheduledRules { quiet_within: span(60 * S), ..quick(After::Auto) }, script(Script::default()), HOUR)
        }),
        ("with its slot in the stop", || host_of(quick(After::UntilNext), script(exits(143, 2 * S)), 27 * S)),
        ("of three commands", || host(quick(After::Rerun), Script { steps: 3, ..Script::default() })),
        ("of three commands, the first ends", || {
            host(quick(After::Rerun), Script { steps: 3, next_runs: [73_200 * MS, 5 * S].into(), ..Script::default() })
        }),
        ("of three commands, asked", || host(asking(After::Rerun), Script { steps: 3, checkpoint: Some(2 * S), ..Script::default() })),
        ("of three commands, with a lock", || {
            host(quick(After::Rerun), Script { steps: 3, holds: 76 * S, next_runs: [82 * S].into(), ..Script::default() })
        }),
        ("asked by a command", || {
            let argv = |name: &str| vec![format!("/usr/local/bin/{name}-{{unit}}")];
            let rules = ScheduledRules { ask: argv("ask"), unask: argv("unask"), ..asking(After::Rerun) };
            host(rules, Script { checkpoint: Some(2 * S), ..Script::default() })
        }),
        ("killed, with ExecStopPost=", || host(quick(After::Rerun), Script { stop_post: 3 * S, ..on_term(OnTerm::Ignores) })),
        ("of three commands, with a stubborn child", || {
            host(quick(After::Rerun), Script { stubborn_child: true, steps: 3, ..exits(143, S) })
        }),
        ("that settles", || host(ScheduledRules { settle_after: span(8 * S), ..quick(After::Rerun) }, Script::default())),
        ("with OnSuccess=", || host_of(quick(After::Rerun), Unit { on_success: true, ..script(exits(0, S)) }, HOUR)),
    ]
}

fn services() -> Vec<(&'static str, Make)> {
    fn asks() -> ServiceRules {
        ServiceRules { checkpoint_timeout: span(3 * S), ..service::rules() }
    }
    vec![
        ("one", || service::host(service::rules(), Daemon::default())),
        ("that ignores SIGTERM", || service::host(service::rules(), Daemon { on_term: OnTerm::Ignores, ..Daemon::default() })),
        ("that takes its time to end", || {
            let slow = OnTerm::Exits { status: 0, after: 2 * S };
            service::host(service::rules(), Daemon { on_term: slow, ..Daemon::default() })
        }),
        ("that fails when it is stopped", || {
            let fails = OnTerm::Exits { status: 143, after: 2 * S };
            service::host(service::rules(), Daemon { on_term: fails, ..Daemon::default() })
        }),
        ("killed, with ExecStopPost=", || {
            service::host(service::rules(), Daemon { on_term: OnTerm::Ignores, stop_post: 3 * S, ..Daemon::default() })
        }),
        ("with KillMode=process", || service::host(service::rules(), Daemon { leaves: true, ..Daemon::default() })),
        ("asked, with KillMode=process", || service::host(asks(), Daemon { leaves: true, checkpoint: Some(S), ..Daemon::default() })),
        ("asked", || service::host(asks(), Daemon { checkpoint: Some(S), ..Daemon::default() })),
        ("asked, and does not listen", || service::host(asks(), Daemon::default())),
        ("asked by a command", || {
            let argv = |name: &str| vec![format!("/usr/local/bin/{name}-{{unit}}")];
            let rules = ServiceRules { ask: argv("ask"), unask: argv("unask"), ..asks() };
            service::host(rules, Daemon { checkpoint: Some(S), ..Daemon::default() })
        }),
        ("with a lock", || {
            service::host(
                ServiceRules { hold_timeout: span(6 * S), ..service::rules() },
                Daemon { holds: HOUR + 14 * S, ..Daemon::default() },
            )
        }),
        ("that starts slowly", || service::host(service::rules(), Daemon { starts: Starts::Well(3 * S), ..Daemon::default() })),
        ("that fails to start once", || service::host(service::rules(), Daemon { starts: Starts::Fails(1), ..Daemon::default() })),
        ("that fails to start", || service::host(service::rules(), Daemon { starts: Starts::Fails(4), ..Daemon::default() })),
    ]
}

fn befalls() -> Vec<(&'static str, Befall)> {
    vec![
        ("a hold", |host, at, _| and(and(host, at, hold(None)), at + 12 * S, release())),
        ("a long hold", |host, at, _| and(host, at, hold(None))),
        ("an abort", |host, at, _| and(and(host, at, abort()), at + 7 * S, release())),
        ("it leaves the configuration", |host, at, _| and(host, at, Deed::Policy(Box::new(policy())))),
        ("it leaves and comes back", |host, at, _| {
            let back = host.policy.clone();
            and(and(host, at, Deed::Policy(Box::new(policy()))), at + 3 * S, Deed::Policy(Box::new(back)))
        }),
        ("the configuration breaks", |host, at, _| {
            and(and(host, at, Deed::ConfigProblem(Some("broken".to_owned()))), at + 9 * S, Deed::ConfigProblem(None))
        }),
        ("the bus is away", |host, at, _| {
            then(host, at, "systemd goes away", |world| world.faults.systemd_away_until = world.now + 1500 * MS)
        }),
        ("the bus is away for long", |host, at, _| {
            then(host, at, "systemd goes away", |world| world.faults.systemd_away_until = world.now + 20 * S)
        }),
        ("the bus is restarted", |host, at, _| and(host, at, Deed::BusRestarts)),
        ("Reload fails", |host, at, _| then(host, at, "Reload fails", |world| world.faults.reload_fails_until = world.now + 7 * S)),
        ("the journal is full", |host, at, _| and(and(host, at, Deed::DiskFull), at + 5 * S, Deed::DiskGood)),
        ("a person stops it", |host, at, unit| person(host, at, "stop", unit)),
        ("a person starts it", |host, at, unit| person(host, at, "start", unit)),
        ("a person restarts it", |host, at, unit| person(host, at, "restart", unit)),
        ("a newer deploy", |host, at, _| and(host, at, Deed::Touch("d3".to_owned()))),
        ("an emergency", |host, at, _| and(host, at, emergency())),
    ]
}

fn person(host: Host, at: Us, verb: &'static str, unit: &'static str) -> Host {
    then(host, at, "a person comes", move |world| drop(world.person(verb, unit, By::Person)))
}

fn slow(mut host: Host) -> Host {
    host.world.faults.slowness = 10;
    host
}

/// A service runs, unless somebody else has stopped it or was the last to start it, or it has left the configuration since.
fn up(host: &Host) -> bool {
    let Some(worker) = host.world.units.get(WORKER) else { return true };
    let since = host.memory().targets.get("workers").map(|workers| workers.adopted_at);
    let ours = |(at, by): &(Us, By)| *by == By::Agent && since.is_some_and(|since| since <= host.world.wall(*at));
    worker.active.runs() || worker.may_stay_down || !worker.runs.last().is_some_and(ours)
}

/// With one event, and with two.
fn crossed(of: &str, unit: &'static str, makes: &[(&str, Make)], single: &[Us], double: &[(Us, Us)]) -> (Vec<Story>, Vec<Story>) {
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for (name, make) in makes.iter().map(|(name, make)| (name, *make)) {
        for (what, befall) in befalls() {
            for at in single.iter().copied() {
                let build = move || slow(befall(deploy(make()), at * MS, unit));
                ones.push(Story::new(format!("cross: {of} {name}; {what} at {at}"), 40, build).always(up));
            }
            for (again, befall_again) in befalls() {
                for (at, later) in double.iter().copied() {
                    let build = move || slow(befall_again(befall(deploy(make()), at * MS, unit), (at + later) * MS, unit));
                    let name = format!("cross: {of} {name}; {what} at {at}, {again} {later} later");
                    twos.push(Story::new(name, 60, build).always(up));
                }
            }
        }
    }
    (ones, twos)
}

/// One in so many of those with one event, and of those with two.
pub fn stories(once: usize, twice: usize) -> Vec<Story> {
    let around_stop = [1000, 3020, 3520, 3560, 3700, 4000, 4500, 6000, 7700, 9000, 13_000];
    let two_around_stop = [(2000, 1500), (3520, 150), (3700, 200), (3700, 1000), (4000, 3000), (6000, 500), (7700, 3000)];
    let around_restart = [600, 1900, 2020, 2060, 2100, 2200, 2500, 3000, 4100, 6100, 7000, 9000];
    let two_around_restart = [(1000, 1000), (2020, 50), (2100, 100), (2200, 1000), (3000, 3000), (6000, 500), (7000, 3000)];
    let (mut ones, mut twos) = crossed("a script", SCRIPT, &scripts(), &around_stop, &two_around_stop);
    let (services, of_two) = crossed("a service", WORKER, &services(), &around_restart, &two_around_restart);
    ones.extend(services);
    twos.extend(of_two);
    ones.into_iter().step_by(once).chain(twos.into_iter().step_by(twice)).collect()
}
