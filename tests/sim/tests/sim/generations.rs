//! Generations of php-fpm behind a symlink.

use restart_agent::core::policy::{AtMax, GenerationRules, TargetRules};
use restart_agent::core::status::State;
use sim::host::{Host, span};
use sim::world::{Fpm, Load, MINUTE, MS, S, Template};

use crate::given::{adopted, policy, with_target, world};

pub const TEMPLATE: &str = "php-fpm-job@.service";
const SOCKET: &str = "/run/php/job/current.sock";

pub fn rules() -> GenerationRules {
    GenerationRules {
        unit: TEMPLATE.to_owned(),
        socket: SOCKET.to_owned(),
        linger: span(60 * S),
        max_generations: 4,
        at_max: AtMax::Wait,
        min_available_memory: None,
        term_timeout: span(5 * S),
        warm: Vec::new(),
        proof: None,
        opcache: None,
    }
}

/// Short requests, one each 40 ms.
pub fn load() -> Load {
    Load { every: 40 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 0, long: (0, 0), until: u64::MAX }
}

pub fn host_with(rules: GenerationRules, change: impl FnOnce(&mut Template)) -> Host {
    let mut world = world();
    let mut template = Template::new(TEMPLATE, SOCKET, Fpm { workers: 6, ..Fpm::default() }, load());
    change(&mut template);
    world.add_template(template);
    adopted(world, with_target(policy(), "jobrunner", TargetRules::Generations(rules)))
}

fn template(host: &Host) -> &Template {
    &host.world.templates[TEMPLATE]
}

fn done(mut host: Host) {
    host.settle();
    host.must_be_right();
}

#[test]
fn a_deploy_starts_a_generation_switches_to_it_and_ends_the_old_one() {
    let mut host = host_with(rules(), |_| {});
    let before = template(&host).current().unwrap();
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    let after = template(&host).current().unwrap();
    assert_eq!(after, "php-fpm-job@d2-0.service");
    host.run(10 * S);
    assert_eq!(host.world.running(TEMPLATE), [after]);
    assert!(!host.world.units[&before].active.runs());
    assert_eq!((template(&host).refused, template(&host).dropped), (0, 0));
    assert!(host.casualties().is_empty());
    assert!(template(&host).came > 400);
    done(host);
}
