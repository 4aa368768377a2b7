//! Timer-activated scripts.

use restart_agent::core::policy::After;
use restart_agent::core::status::State;
use sim::world::{By, HOUR, MINUTE, S, Script};

use crate::given::{SCRIPT, script_host};

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
