//! php-fpm in place.

use restart_agent::core::status::State;
use sim::world::{Fpm, MINUTE, S};

use crate::given::{FPM, fpm_host};

#[test]
fn a_touched_stamp_renews_php_fpm_and_the_host_is_back_in_the_pool() {
    let mut host = fpm_host(true, Fpm::default());
    let before = host.world.units[FPM].invocation.clone();
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_ne!(before, host.world.units[FPM].invocation);
    assert_eq!(host.world.balancers["default"].by_agent, (1, 1));
    assert!(host.casualties().is_empty());
}
