//! Hosts and rules, as the scenarios want them.

use std::collections::BTreeMap;

use restart_agent::core::entry::Entry;
use restart_agent::core::policy::{After, FpmRules, Policy, PoolRules, ScheduledRules, StampRules, TargetRules};
use restart_agent::core::status::UnitOutcome;
use sim::host::{Host, span};
use sim::world::{Balancer, Fpm, HOUR, S, Script, Unit, Us, World};

pub const FPM: &str = "php8.2-fpm.service";
pub const SCRIPT: &str = "mediawiki_job_a.service";

pub fn fpm_rules() -> FpmRules {
    FpmRules {
        unit: FPM.to_owned(),
        drain_timeout: span(5 * S),
        term_timeout: span(10 * S),
        status: None,
        status_path: None,
        warm: Vec::new(),
        proof: None,
        opcache: None,
    }
}

pub fn script_rules(after: After) -> ScheduledRules {
    ScheduledRules {
        code: Vec::new(),
        units: vec!["mediawiki_job_*.service".to_owned()],
        exclude: vec!["mediawiki_job_excluded.service".to_owned()],
        drain_timeout: span(30 * S),
        overdue: None,
        checkpoint_timeout: span(0),
        hold_timeout: span(300 * S),
        ask: Vec::new(),
        unask: Vec::new(),
        settle_after: span(0),
        max_interruptions: 3,
        term_timeout: span(20 * S),
        after,
        quiet_within: span(24 * HOUR),
    }
}

pub fn pool_rules() -> PoolRules {
    let argv = |name: &str| vec![format!("/usr/local/bin/{name}")];
    PoolRules { depool: argv("depool"), repool: argv("pool"), check: argv("pool-state"), timeout: span(5 * S), quiet: span(S) }
}

pub fn policy() -> Policy {
    Policy {
        unusable: None,
        stamp: StampRules { path: "/srv/deploy/stamp".to_owned(), ..StampRules::default() },
        pools: BTreeMap::new(),
        targets: BTreeMap::new(),
    }
}

pub fn with_target(mut policy: Policy, name: &str, rules: TargetRules) -> Policy {
    policy.targets.insert(name.to_owned(), rules);
    policy
}

pub fn with_pool(mut policy: Policy, name: &str) -> Policy {
    policy.pools.insert(name.to_owned(), pool_rules());
    policy
}

pub fn world() -> World {
    let mut world = World::new(1);
    world.story.told = true;
    world
}

/// A host on which yesterday's deploy has been adopted, ten seconds ago.
pub fn adopted(mut world: World, policy: Policy) -> Host {
    for pool in policy.pools.keys() {
        world.balancers.entry(pool.clone()).or_insert_with(|| Balancer::new(pool));
    }
    world.touch("first");
    world.wanted.clear();
    let mut host = Host::new(world, policy);
    host.start_agent();
    host.run(10 * S);
    host.must_be_right();
    host
}

/// php-fpm under load, in a pool or not.
pub fn fpm_host(pool: bool, fpm: Fpm) -> Host {
    fpm_host_by(fpm_rules(), pool, fpm)
}

/// The same by other rules.
pub fn fpm_host_by(rules: FpmRules, pool: bool, fpm: Fpm) -> Host {
    let mut world = world();
    world.add(Unit::fpm(FPM, fpm), HOUR);
    let policy = with_target(policy(), "jobrunner", TargetRules::PhpFpm(rules));
    adopted(world, if pool { with_pool(policy, "default") } else { policy })
}

/// One running script with a timer.
pub fn script_host(after: After, script: Script, every: Us) -> Host {
    let mut world = world();
    world.add(Unit::script(SCRIPT, script), 60 * S);
    if every > 0 {
        let phase = world.now + every / 2;
        world.timer(SCRIPT, every, phase);
    }
    adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(script_rules(after))))
}

/// What its journal says came of units.
pub fn unit_ends(host: &Host) -> impl Iterator<Item = &UnitOutcome> {
    host.journal.iter().filter_map(|written| if let Entry::UnitEnded(end) = &written.entry { Some(end) } else { None })
}
