//! Timer-activated scripts.

use restart_agent::core::policy::After;
use restart_agent::core::seen::Active;
use restart_agent::core::status::State;
use sim::host::{Deed, Host};
use sim::world::{By, HOUR, MINUTE, OnTerm, S, Script, Unit};

use crate::given::{SCRIPT, policy, script_host};

#[test]
fn a_stale_script_is_stopped_after_its_drain_and_runs_again_at_once() {
    let mut host = script_host(After::Rerun, Script::default(), HOUR, false);
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    let runs = &host.world.units[SCRIPT].runs;
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[1].1, By::Agent);
    assert_eq!(host.casualties().len(), 1);
}

/// A child that ignores SIGTERM would outlive its grace, and be ended by systemd's deadline: Result=timeout, and OnFailure= (facts F1.3).
#[test]
fn a_script_that_is_being_stopped_goes_down_the_ladder_though_its_target_has_left_the_configuration() {
    let script = Script { on_term: OnTerm::Exits { status: 143, after: S }, stubborn_child: true, ..Script::default() };
    let mut host = script_host(After::Rerun, script, HOUR, false);
    host.world.touch("d2");
    let stopping = |host: &Host| host.world.units[SCRIPT].active == Active::Deactivating;
    assert!(host.run_until(2 * MINUTE, stopping));
    let asked = host.world.sent[SCRIPT];
    host.later(S, Deed::Policy(Box::new(policy())));
    assert!(host.run_until(MINUTE, |host| !stopping(host)));
    host.must_be_right();
    let took = host.world.now - asked;
    assert!((20 * S..21 * S).contains(&took), "ended {took} us after it was asked to");
    assert_eq!(host.world.units[SCRIPT].result, "success");
    assert!(host.run_until(MINUTE, Host::quiet));
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.units[SCRIPT].runs.len(), 2, "what was owed to it is paid all the same");
    let ended_by: Vec<_> = host.casualties().into_iter().map(|casualty| casualty.ended_by).collect();
    assert_eq!(ended_by, ["SIGKILL"]);
}

/// It was lent something; or the rollout would wait for ever for that to be given back.
#[test]
fn a_script_that_has_ended_by_itself_when_the_next_deploy_lands_holds_nothing_up() {
    let ends = Script { next_runs: [75 * S].into(), ..Script::default() };
    let mut host = script_host(After::Rerun, ends, HOUR, false);
    host.world.add(Unit::script("mediawiki_job_b.service", Script::default()), 60 * S);
    host.world.touch("d2");
    let ended = |host: &Host| !host.world.units[SCRIPT].active.runs();
    assert!(host.run_until(20 * S, ended));
    host.world.touch("d3");
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

#[test]
fn of_a_script_that_somebody_else_was_stopping_already_nobody_is_certain_who_ended_it() {
    let slow = Script { on_term: OnTerm::Exits { status: 143, after: 15 * S }, ..Script::default() };
    let mut host = script_host(After::Rerun, slow, HOUR, false);
    host.world.touch("d2");
    host.later(25 * S, Deed::World("a person stops it", Box::new(|world| drop(world.person("stop", SCRIPT, By::Person)))));
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.units[SCRIPT].runs.len(), 1, "what a person has stopped stays stopped");
    assert_eq!(host.casualties().into_iter().map(|casualty| casualty.certain).collect::<Vec<_>>(), [false]);
}
