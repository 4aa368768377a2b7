//! php-fpm in place.

use restart_agent::core::Waited;
use restart_agent::core::event::Order;
use restart_agent::core::policy::{After, FpmRules, ProofRules, ScheduledRules, TargetRules};
use restart_agent::core::status::{State, TargetState};
use sim::host::{Deed, Host, span};
use sim::world::{Answers, By, Faults, Fpm, FpmStart, HOUR, Hook, Load, MINUTE, MS, Pool, S, START, Script, Unit, Us, World};

use crate::given::{
    FPM, SCRIPT, adopted, fpm_host, fpm_host_by, fpm_rules, policy, script_rules, unit_ends, with_pool, with_target, world,
};

const OTHER: &str = "php8.2-fpm-other.service";

/// Two php-fpm behind one pool.
fn two(one: Fpm, other: Fpm, rules: FpmRules) -> Host {
    let mut world = world();
    world.add(Unit::fpm(FPM, one), HOUR);
    world.add(Unit::fpm(OTHER, other), HOUR);
    let policy = with_target(policy(), "jobrunner", TargetRules::PhpFpm(rules.clone()));
    let policy = with_target(policy, "other", TargetRules::PhpFpm(FpmRules { unit: OTHER.to_owned(), ..rules }));
    adopted(world, with_pool(policy, "default"))
}

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

/// Trap T4: a clock that was set while the deploy was on its way, or a link that was turned to a file made yesterday. What runs is older than now.
#[test]
fn a_new_stamp_with_a_ctime_of_yesterday_has_landed_now() {
    let mut host = fpm_host(true, Fpm::default());
    let before = host.world.units[FPM].invocation.clone();
    let day = i64::try_from(24 * HOUR).unwrap();
    host.world.wall_offset -= day;
    host.world.touch("d2");
    host.world.wall_offset += day;
    let renewed = |host: &Host| matches!(host.waited(None), Some(Waited::Converged { id }) if id == "d2");
    assert!(host.run_until(MINUTE, renewed));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_ne!(before, host.world.units[FPM].invocation);
}

/// Two stamps within `settle` are one deploy, for the targets of both.
#[test]
fn two_stamps_within_settle_renew_the_targets_of_both() {
    let mut host = two(Fpm::default(), Fpm::default(), fpm_rules());
    let before = [FPM, OTHER].map(|unit| host.world.units[unit].invocation.clone());
    host.world.touch("id = \"d2\"\ntargets = [\"jobrunner\"]\n");
    host.run(100 * MS);
    host.world.touch("id = \"d3\"\ntargets = [\"other\"]\n");
    assert!(host.run_until(MINUTE, |host| matches!(host.waited(None), Some(Waited::Converged { id }) if id == "d3")));
    let after = [FPM, OTHER].map(|unit| host.world.units[unit].invocation.clone());
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

/// Facts 7j: the sixth start within ten seconds systemd refuses. The agent keeps two in reserve, for people and for Restart=.
#[test]
fn orders_in_a_row_without_a_drain_stay_below_systemds_start_limit_t22() {
    let mut host = fpm_host(false, Fpm::default());
    for _ in 0..12 {
        host.order(Order::Trigger { force: true, override_hold: false, targets: None, reason: None });
        host.run(1200 * MS);
        host.must_be_right();
    }
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    let restarts: Vec<Us> = host.world.units[FPM].runs.iter().filter(|(_, by)| *by == By::Agent).map(|(at, _)| *at).collect();
    assert!(restarts.len() > 5 && restarts.windows(4).all(|four| four[3] - four[0] >= 10 * S), "{restarts:?}");
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

/// Its target leaves the configuration in the drain, and the balancer does not take the host back: nobody is told that the rollout is over.
#[test]
fn a_rollout_ends_when_the_host_is_back_in_the_pool() {
    let mut host = fpm_host(true, Fpm::default());
    host.world.balancers.get_mut("default").unwrap().repool = Hook::Exits(1);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    host.deed(Deed::Policy(Box::new(with_pool(policy(), "default"))));
    host.run(MINUTE);
    assert!(host.memory().rollout.is_some(), "it is over, and the host is out of the pool");
    host.world.balancers.get_mut("default").unwrap().repool = Hook::Works(80 * MS);
    assert!(host.run_until(10 * MINUTE, |host| host.memory().rollout.is_none()));
    assert!(!host.world.balancers["default"].out);
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

/// What could not be renewed leaves the configuration, and is adopted when it comes back: the try that was still to come is not made of it.
#[test]
fn another_try_is_of_what_is_still_wanted() {
    let mut host = fpm_host(true, Fpm::default());
    let before = host.world.units[FPM].invocation.clone();
    let configured = host.policy.clone();
    host.world.balancers.get_mut("default").unwrap().check = Hook::Exits(2);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Blocked) || host.state() == Some(State::Failed)));
    host.deed(Deed::Policy(Box::new(with_pool(policy(), "default"))));
    host.run(S);
    host.world.balancers.get_mut("default").unwrap().check = Hook::Works(30 * MS);
    host.deed(Deed::Policy(Box::new(configured)));
    host.run(HOUR);
    host.must_be_right();
    assert_eq!(before, host.world.units[FPM].invocation, "restarted for a deploy that it was adopted with");
    assert_eq!(host.world.balancers["default"].by_agent, (0, 0));
}

/// A person aborts and thinks better of it: the host is put back, then taken out again, and the check says "out" until the balancer has heard
/// of either.
#[test]
fn a_drain_begins_anew_when_a_repool_is_still_on_its_way() {
    let load =
        Load { every: 200 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 10, long: (20 * S, 30 * S), until: u64::MAX };
    let mut host = fpm_host(true, Fpm { workers: 40, load, ..Fpm::default() });
    host.world.balancers.get_mut("default").unwrap().delay = 2 * S;
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    host.later(S, Deed::Order(Order::Abort { reason: None }));
    host.later(S + 200 * MS, Deed::Order(Order::Release));
    host.run(5 * S);
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(5 * S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.balancers["default"].by_agent, (2, 2));
}

/// The hold of an abort is on everything. A person who then holds one target only lets the other go on.
#[test]
fn what_a_newer_hold_does_not_name_goes_on() {
    let mut host = two(Fpm::default(), Fpm::default(), fpm_rules());
    let before = |host: &Host, unit: &str| host.world.units[unit].invocation.clone();
    let (old, other) = (before(&host, FPM), before(&host, OTHER));
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    host.later(0, Deed::Order(Order::Abort { reason: None }));
    assert!(host.run_until(MINUTE, |host| host.memory().rollout.is_none()));
    host.run(MINUTE);
    assert_eq!((&old, &other), (&before(&host, FPM), &before(&host, OTHER)), "renewed in spite of the abort");
    let targets = Some(std::collections::BTreeSet::from(["other".to_owned()]));
    host.later(0, Deed::Order(Order::Hold { reason: "looked at".to_owned(), span: span(30 * MINUTE), targets }));
    assert!(host.run_until(MINUTE, |host| before(host, FPM) != old), "it waits for a hold that does not name it");
    host.run(10 * MINUTE);
    assert_eq!(other, before(&host, OTHER), "renewed though it is held");
    assert!(host.run_until(30 * MINUTE, |host| host.state() == Some(State::Converged)));
    assert_ne!(other, before(&host, OTHER));
    host.run(5 * S);
    host.check_at_rest();
    host.must_be_right();
}

#[test]
fn without_a_status_page_too_what_somebody_else_restarts_in_the_drain_is_not_restarted_again() {
    let mut host = fpm_host(false, Fpm { has_status: false, ..Fpm::default() });
    host.world.touch("d2");
    host.later(3 * S, Deed::World("a person restarts it", Box::new(|world| drop(world.person("restart", FPM, By::Person)))));
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.units[FPM].runs.last().map(|(_, by)| *by), Some(By::Person));
}

/// What is wanted is not known then: nothing may be called converged, and nothing forgotten (the agent comes back in the middle of a drain).
#[test]
fn a_configuration_that_breaks_while_a_rollout_is_interrupted_forgets_no_deploy() {
    let long =
        Load { every: 200 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 10, long: (20 * S, 30 * S), until: u64::MAX };
    let mut host = fpm_host(true, Fpm { workers: 40, load: long, ..Fpm::default() });
    let before = host.world.units[FPM].invocation.clone();
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    host.deed(Deed::ConfigProblem(Some("bogus.toml:1: unknown key".to_owned())));
    host.deed(Deed::KillAgent(S));
    host.run(10 * S);
    assert_eq!(host.state(), Some(State::Blocked));
    assert!(matches!(host.waited(None), Some(Waited::Blocked { why, .. }) if why.contains("bogus.toml:1")));
    assert!(!host.world.balancers["default"].out, "what is owed is paid");
    assert_eq!(before, host.world.units[FPM].invocation);

    host.world.touch("d3");
    host.run(10 * S);
    assert!(matches!(host.waited(None), Some(Waited::Blocked { .. })), "{:?}", host.waited(None));
    host.deed(Deed::ConfigProblem(None));
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    assert_ne!(before, host.world.units[FPM].invocation);
    assert!(matches!(host.waited(None), Some(Waited::Converged { id }) if id == "d3"));
}

#[test]
fn a_trigger_over_a_hold_leaves_the_hold_for_the_next_deploy() {
    let mut host = fpm_host(true, Fpm::default());
    let before = host.world.units[FPM].invocation.clone();
    host.order(Order::Hold { reason: "the database moves".to_owned(), span: span(60 * MINUTE), targets: None });
    let trigger = Order::Trigger { force: false, override_hold: true, targets: None, reason: None };
    host.order(trigger);
    assert_eq!(host.state(), Some(State::Converging));
    assert!(host.run_until(MINUTE, |host| host.world.units[FPM].invocation != before && !host.world.balancers["default"].out));
    host.run(5 * S);
    assert_eq!(host.state(), Some(State::Held));

    let triggered = host.world.units[FPM].invocation.clone();
    host.world.touch("d2");
    host.run(MINUTE);
    assert_eq!(triggered, host.world.units[FPM].invocation);
    assert!(matches!(host.waited(None), Some(Waited::Pending { why }) if why.contains("the database moves")));
    // The deploy that waits has landed before this trigger, which is for it, too.
    host.order(Order::Trigger { force: false, override_hold: true, targets: None, reason: None });
    assert!(host.run_until(MINUTE, |host| matches!(host.waited(None), Some(Waited::Converged { id }) if id == "d2")));
    assert_ne!(triggered, host.world.units[FPM].invocation);
    host.run(5 * S);
    let over = host.world.units[FPM].invocation.clone();
    host.order(Order::Release);
    host.run(MINUTE);
    assert_eq!(over, host.world.units[FPM].invocation, "restarted twice for one deploy");
    host.check_at_rest();
    host.must_be_right();
}

/// A question to its status page is under way when it is seen to be down, and its answer is of no interest any more.
#[test]
fn what_a_person_stops_in_the_drain_gives_back_what_it_was_lent() {
    let load =
        Load { every: 200 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 100, long: (20 * S, 30 * S), until: u64::MAX };
    let mut host = fpm_host(false, Fpm { load, ..Fpm::default() });
    host.world.faults.slowness = 50;
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.memory().lent.contains(FPM)));
    host.later(S, Deed::World("a person stops it", Box::new(|world| drop(world.person("stop", FPM, By::Person)))));
    assert!(host.run_until(MINUTE, |host| host.memory().rollout.is_none() && host.memory().lent.is_empty()));
    host.must_be_right();
    assert_eq!(host.state(), Some(State::Converged));
}

/// The restart is under way when its target leaves the configuration, and the agent dies before it has proven what came of it: nobody
/// will prove it any more.
#[test]
fn a_php_fpm_that_leaves_the_configuration_in_its_restart_does_not_keep_the_host_out() {
    let mut host = fpm_host(true, Fpm { start: FpmStart::Well(3 * S), ..Fpm::default() });
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.memory().unproven.contains_key(FPM)));
    host.deed(Deed::Policy(Box::new(with_pool(policy(), "default"))));
    host.deed(Deed::KillAgent(S));
    assert!(host.run_until(MINUTE, |host| host.machine().is_some()));
    assert_eq!(host.state(), Some(State::Converging), "the pool is still to have this host back");
    assert!(host.run_until(MINUTE, |host| host.memory().depooled.is_empty()));
    host.run(5 * S);
    host.must_be_right();
    assert!(!host.world.balancers["default"].out);
}

/// One stamp for some targets replaces the code of all: the old id is nowhere any more.
#[test]
fn the_proof_takes_the_id_of_a_newer_stamp_that_names_other_targets() {
    let rules = FpmRules { proof: Some(ProofRules { script: "/srv/app/version.php".to_owned() }), ..fpm_rules() };
    let mut host = two(Fpm::default(), Fpm::default(), rules);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    host.world.touch("id = \"d3\"\ntargets = [\"other\"]\n");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    let reached = &host.memory().targets["jobrunner"].reached;
    assert_eq!(reached.as_ref().map(|want| want.id.as_str()), Some("d2"));
}

#[test]
fn the_proof_takes_no_older_id() {
    let rules = FpmRules { proof: Some(ProofRules { script: "/srv/app/version.php".to_owned() }), ..fpm_rules() };
    let mut host = two(Fpm { old_code: true, ..Fpm::default() }, Fpm::default(), rules);
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Failed)));
    let status = host.status();
    let jobrunner = status.targets.iter().find(|target| target.name == "jobrunner").unwrap();
    assert_eq!(jobrunner.state, TargetState::Failed);
    assert!(jobrunner.why.contains("without the id d2"), "{}", jobrunner.why);
    assert!(host.world.balancers["default"].out, "it is not proven to serve the new code");
}

/// The code of the last deploy is on the disk, which was announced (`phase = "begin"`), and that of the newest is not.
#[test]
fn the_proof_takes_no_id_of_a_deploy_that_had_begun_and_was_over() {
    let rules = FpmRules { proof: Some(ProofRules { script: "/srv/app/version.php".to_owned() }), ..fpm_rules() };
    let mut host = two(Fpm::default(), Fpm::default(), rules);
    host.world.touch("id = \"d2\"\nphase = \"begin\"\n");
    host.run(2 * S);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| matches!(host.waited(None), Some(Waited::Converged { id }) if id == "d2")));
    host.run(10 * S);
    host.world.touch("d3");
    host.world.code.retain(|(_, id)| id != "d3");
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Failed)), "{:?}", host.status());
    assert!(host.world.balancers["default"].out, "it is not proven to serve the new code");
}

/// Somebody gives its target another php-fpm, since this one does not come up.
#[test]
fn a_php_fpm_that_is_replaced_in_the_configuration_does_not_keep_the_host_out() {
    let mut host = two(Fpm { start: FpmStart::Fails, ..Fpm::default() }, Fpm::default(), fpm_rules());
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Failed)));
    assert!(host.world.balancers["default"].out);
    let other = TargetRules::PhpFpm(FpmRules { unit: OTHER.to_owned(), ..fpm_rules() });
    host.deed(Deed::Policy(Box::new(with_pool(with_target(policy(), "jobrunner", other), "default"))));
    assert!(host.run_until(5 * MINUTE, |host| !host.world.balancers["default"].out), "{:?}", host.status());
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)), "{:?}", host.status());
}

/// Its start has failed when the deploy lands, and systemd brings it up (Restart=) while the other one drains.
#[test]
fn what_has_come_up_again_by_itself_in_the_drain_is_not_restarted() {
    let load =
        Load { every: 200 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 100, long: (20 * S, 30 * S), until: u64::MAX };
    let mut host = two(Fpm::default(), Fpm { load, ..Fpm::default() }, fpm_rules());
    let unit = host.world.units.get_mut(FPM).unwrap();
    unit.as_fpm_mut().unwrap().start = FpmStart::Fails;
    drop(host.world.person("restart", FPM, By::Person));
    host.run(S);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    let mended = |world: &mut sim::world::World| {
        world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap().start = FpmStart::Well(60 * MS);
        drop(world.person("start", FPM, By::Systemd));
    };
    host.later(S, Deed::World("systemd starts it again", Box::new(mended)));
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.units[FPM].runs.last().map(|(_, by)| *by), Some(By::Systemd));
}

/// The disk is full between the check of the pools and the restart, and somebody puts the host back meanwhile (trap T30).
#[test]
fn what_waits_for_the_journal_asks_the_pools_again_before_it_is_restarted() {
    let load =
        Load { every: 200 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 20, long: (20 * S, 30 * S), until: u64::MAX };
    let mut host = two(Fpm { workers: 40, load, ..Fpm::default() }, Fpm { workers: 40, load, ..Fpm::default() }, fpm_rules());
    let before = host.world.units[FPM].invocation.clone();
    host.world.touch("d2");
    let about_to =
        |host: &Host| host.status().targets.iter().flat_map(|target| &target.units).any(|unit| unit.state == TargetState::Stopping);
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    assert!(host.run_until(MINUTE, about_to));
    host.deed(Deed::DiskFull);
    host.run(10 * S);
    host.world.person_turns("default", false);
    host.run(10 * S);
    assert_eq!(before, host.world.units[FPM].invocation);
    host.deed(Deed::DiskGood);
    host.run(5 * S);
    host.must_be_right();
    assert!(host.run_until(3 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

/// It is about to be counted when the disk is full, and leaves the configuration then: nothing has happened to it, and nothing will.
#[test]
fn what_waits_for_the_journal_is_not_restarted_when_it_has_left_the_configuration() {
    let load =
        Load { every: 200 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 20, long: (20 * S, 30 * S), until: u64::MAX };
    let mut host = fpm_host(false, Fpm { workers: 40, load, ..Fpm::default() });
    let before = host.world.units[FPM].invocation.clone();
    host.world.touch("d2");
    let about_to =
        |host: &Host| host.status().targets.iter().flat_map(|target| &target.units).any(|unit| unit.state == TargetState::Stopping);
    assert!(host.run_until(MINUTE, about_to));
    host.deed(Deed::DiskFull);
    host.run(10 * S);
    host.deed(Deed::Policy(Box::new(policy())));
    host.run(10 * S);
    host.deed(Deed::DiskGood);
    host.run(10 * S);
    host.must_be_right();
    assert_eq!(before, host.world.units[FPM].invocation);
    assert!(host.world.left_over().is_empty(), "{:?}", host.world.left_over());
}

/// It is counted idle, and gives no answer once its workers are stopped: one may have taken a request right before that.
#[test]
fn one_that_gives_no_answer_in_the_count_has_its_time() {
    let load = Load { every: 300 * MS, short: (5 * MS, 10 * MS), ..Load::default() };
    let mut host = fpm_host(false, Fpm { load: Load { until: u64::MAX, ..load }, ..Fpm::default() });
    host.world.touch("d2");
    let landed = host.world.now;
    let stopped = |host: &Host| host.world.units[FPM].processes.values().any(|process| process.frozen);
    assert!(host.run_until(4 * S, stopped), "there is nothing to count");
    host.world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap().status = Answers::Not;
    assert!(host.run_until(MINUTE, |host| host.world.sent.contains_key(FPM)));
    assert!(host.world.now >= landed + 5 * S, "restarted {} ms after the deploy", (host.world.now - landed) / MS);
    host.settle();
    host.must_be_right();
}

/// Its status says when it was started: what is new by then is not restarted, nor are its requests cut.
#[test]
fn what_a_person_restarts_while_it_is_counted_is_not_restarted_again() {
    let load =
        Load { every: 50 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 20, long: (20 * S, 30 * S), until: u64::MAX };
    let lives = |restarted: Option<Us>| {
        let mut host = fpm_host(false, Fpm { workers: 40, load, ..Fpm::default() });
        host.world.faults.slowness = 60;
        host.world.touch("d2");
        if let Some(at) = restarted {
            let after = at - host.world.now;
            host.later(after, Deed::World("a person restarts it", Box::new(|world| drop(world.person("restart", FPM, By::Person)))));
        }
        host
    };
    let asked = |mut host: Host| host.run_until(MINUTE, |host| host.world.sent.contains_key(FPM)).then(|| host.world.sent[FPM]);
    let cut = asked(lives(None)).unwrap();
    let mut spared = 0;
    for earlier in 1..=40 {
        let mut host = lives(Some(cut - earlier * 25 * MS));
        host.run(MINUTE);
        host.settle();
        host.must_be_right();
        spared += usize::from(!host.world.sent.contains_key(FPM));
    }
    assert!(spared > 20, "{spared}");
}

/// It cannot be lent anything, so that a child of it that ignores SIGTERM has the whole grace: the one with which it began.
#[test]
fn a_restart_goes_on_by_the_rules_with_which_its_drain_began() {
    let mut host = fpm_host(false, Fpm { stubborn_child: true, ..Fpm::default() });
    host.world.faults.reload_fails_until = host.world.now + 30 * S;
    host.world.begin_request(FPM, 60 * S);
    host.world.touch("d2");
    host.run(3 * S);
    assert!(!host.world.sent.contains_key(FPM));
    let longer = FpmRules { term_timeout: span(20 * S), ..fpm_rules() };
    host.deed(Deed::Policy(Box::new(with_target(policy(), "jobrunner", TargetRules::PhpFpm(longer)))));
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    let lasted = host.world.units[FPM].main_start - host.world.sent[FPM];
    assert!((10 * S..12 * S).contains(&lasted), "{} ms", lasted / MS);
    host.settle();
    host.must_be_right();
}

/// It had answered in the count, and does not when it is counted again. What the others say then names also what has come in between.
#[test]
fn a_pool_that_falls_silent_at_the_cut_takes_nothing_from_what_the_others_say() {
    let more = vec![Pool { status: Answers::Not, ..Pool::new("api") }, Pool::new("jobs")];
    let mut host = fpm_host(false, Fpm { workers: 100, more, ..Fpm::default() });
    host.world.touch("d2");
    for n in 0..60 {
        let request = |world: &mut World| {
            world.begin_request(FPM, 30 * S);
        };
        host.later(4 * S + n * 50 * MS, Deed::World("a request comes in", Box::new(request)));
    }
    let frozen = |host: &Host| host.world.units[FPM].processes.values().any(|process| process.frozen);
    assert!(host.run_until(MINUTE, frozen));
    host.world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap().more[1].status = Answers::Not;
    host.run(MINUTE);
    assert!(host.casualties().iter().filter(|casualty| casualty.certain).count() > 20, "{:#?}", host.casualties());
    host.settle();
    host.must_be_right();
}

/// systemd answers nobody from somewhere in its test on, for longer than the agent waits to read where it listens. By its restart it does again.
#[test]
fn php_fpm_whose_configuration_could_not_be_read_is_read_and_proven_after_its_restart() {
    let seen = (0..200).step_by(10).filter(|offset| read_after_its_restart(*offset, |faults, now| faults.systemd_away_until = now + 4 * S));
    assert!(seen.count() > 0, "it was always read before its restart");
}

/// The same of one that systemd runs, and that does not end: another fault, and as little is known.
#[test]
fn php_fpm_whose_configuration_takes_too_long_to_read_is_read_and_proven_after_its_restart() {
    assert!(read_after_its_restart(0, |faults, now| faults.unreadable_until = now + 14 * S), "it was read before its restart");
}

/// Whether it could not be read before its restart. It is warmed up in any case.
fn read_after_its_restart(offset: Us, fail: fn(&mut Faults, Us)) -> bool {
    let unread = |host: &Host| unit_ends(host).any(|end| end.notes.concat().contains("its configuration could not be read"));
    let rules = FpmRules { warm: vec!["/w/health-check.php".to_owned()], ..fpm_rules() };
    let mut host = fpm_host_by(rules, false, Fpm::default());
    host.world.touch("d2");
    assert!(host.run_until(10 * S, |host| host.memory().rollout.is_some()));
    host.run(offset * MS);
    let now = host.world.now;
    fail(&mut host.world.faults, now);
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)), "{offset}");
    let run = host.world.units[FPM].invocation.clone();
    let asked: Vec<String> = host.world.scripts.iter().filter(|((of, _), _)| *of == run).flat_map(|(_, asked)| asked.clone()).collect();
    assert_eq!(asked, ["/w/health-check.php"], "{offset}");
    let seen = unread(&host);
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    seen
}

/// Reading takes long and is given up, and its status page never answers: its proof has its own time, in which that is put up with.
#[test]
fn the_time_of_the_proof_begins_when_reading_is_over() {
    let rules = FpmRules { status: Some("/run/php/own.sock".to_owned()), status_path: Some("/status".to_owned()), ..fpm_rules() };
    let mut host = fpm_host_by(rules, true, Fpm { status: Answers::Not, ..Fpm::default() });
    host.world.touch("d2");
    assert!(host.run_until(10 * S, |host| host.memory().rollout.is_some()));
    host.world.faults.unreadable_until = host.world.now + HOUR;
    assert!(host.run_until(5 * MINUTE, |host| host.memory().rollout.is_none()));
    assert_eq!(host.state(), Some(State::Converged), "{:#?}", unit_ends(&host).collect::<Vec<_>>());
    assert!(!host.world.balancers["default"].out);
    host.must_be_right();
}

/// It cannot be read at all: it goes back unproven, and whoever looks is told so, while it is read and at the end.
#[test]
fn php_fpm_that_is_never_read_is_not_said_to_serve() {
    let mut host = fpm_host_by(fpm_rules(), true, Fpm::default());
    host.world.touch("d2");
    assert!(host.run_until(10 * S, |host| host.memory().rollout.is_some()));
    host.world.faults.unreadable_until = host.world.now + HOUR;
    let reads = |host: &Host| {
        let status = host.status();
        let mut views = status.targets.iter().flat_map(|target| &target.units);
        views.any(|view| view.why.contains("its configuration is being read") && view.deadline.is_none())
    };
    assert!(host.run_until(5 * MINUTE, reads));
    assert!(host.run_until(5 * MINUTE, |host| host.memory().rollout.is_none()));
    let end = unit_ends(&host).next().unwrap();
    assert!(end.why.starts_with("restarted, and it runs; whether it serves nobody could ask; "), "{}", end.why);
    let notes = end.notes.join("\n");
    assert!(notes.contains("so nobody knows which of its requests were cut") && notes.contains("so it was neither pinged"), "{notes}");
    assert!(!notes.contains("status_path"), "{notes}");
    assert!(!host.world.balancers["default"].out);
    host.must_be_right();
}

/// It was restarted as often as its own limit lets it, and the host came up with a clock that is a day behind: that was long ago.
#[test]
fn restarts_of_before_a_boot_do_not_keep_php_fpm_from_its_next() {
    let mut host = fpm_host(true, Fpm::default());
    for deploy in ["d2", "d3", "d4"] {
        host.world.touch(deploy);
        assert!(host.run_until(MINUTE, |host| host.memory().reached.as_ref().is_some_and(|reached| reached.id == deploy)), "{deploy}");
    }
    host.world.set_clock(-24 * 3_600_000_000);
    host.deed(Deed::Reboot(S));
    host.run(10 * S);
    host.world.touch("d5");
    assert!(host.run_until(MINUTE, |host| host.memory().reached.as_ref().is_some_and(|reached| reached.id == "d5")));
    host.must_be_right();
}

/// It does not answer since the deploy before, and the disk is full when it is to be restarted for the next one: it has still proven nothing.
#[test]
fn php_fpm_that_does_not_answer_stays_out_if_its_next_restart_is_refused() {
    let refused = |host: &Host| unit_ends(host).any(|end| end.why.contains("systemd would not restart it"));
    let mut seen = 0;
    for offset in (0..8000).step_by(200) {
        let mut host = fpm_host(true, Fpm::default());
        host.world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap().pings = false;
        host.world.touch("d2");
        assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Failed)));
        host.world.touch("d3");
        host.later(offset * MS, Deed::DiskFull);
        host.later(offset * MS + 20 * S, Deed::DiskGood);
        host.run(30 * S);
        seen += u32::from(refused(&host));
        assert!(host.world.balancers["default"].out, "{offset}");
        host.must_be_right();
    }
    assert!(seen > 0, "its restart was never refused");
}

/// READY=1 does not say that it stays (trap T20), and systemd may not bring it up again: that is said soon, and not that it runs.
#[test]
fn php_fpm_that_dies_while_it_is_pinged_is_not_said_to_run() {
    for after in (0..1000).step_by(5) {
        let mut host = fpm_host(true, Fpm::default());
        let fpm = host.world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap();
        (fpm.start, fpm.pings) = (FpmStart::Dies(after * MS), false);
        host.world.touch("d2");
        assert!(host.run_until(5 * S, |host| unit_ends(host).next().is_some()), "{after}: {:?}", host.status());
        let why = unit_ends(&host).next().map(|end| end.why.clone()).unwrap_or_default();
        assert!(why.contains("does not come up with the new code: Failed, Result="), "{after}: {why}");
        host.must_be_right();
    }
}

/// php-fpm in a pool, and a script that a deploy makes old and lets go on for so long.
fn beside_a_script_that_drains(drain: Us) -> Host {
    let mut world = world();
    world.add(Unit::fpm(FPM, Fpm::default()), HOUR);
    world.add(Unit::script(SCRIPT, Script { lasts: 2 * HOUR, ..Script::default() }), 60 * S);
    let drains = ScheduledRules { drain_timeout: span(drain), ..script_rules(After::Rerun) };
    let policy = with_target(policy(), "jobrunner", TargetRules::PhpFpm(fpm_rules()));
    adopted(world, with_pool(with_target(policy, "maintenance", TargetRules::Scheduled(drains)), "default"))
}

/// A script of the same rollout drains for an hour, and somebody mends php-fpm after three minutes.
#[test]
fn php_fpm_that_failed_is_tried_again_while_others_of_its_rollout_are_at_work() {
    let mut host = beside_a_script_that_drains(HOUR);
    host.world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap().start = FpmStart::Fails;
    host.world.touch("d2");
    let well = |world: &mut World| world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap().start = FpmStart::Well(60 * MS);
    host.later(3 * MINUTE, Deed::World("somebody mends php-fpm", Box::new(well)));
    host.run(2 * MINUTE);
    assert!(host.world.balancers["default"].out);
    assert!(unit_ends(&host).filter(|end| end.unit == FPM).count() > 1, "it was not tried again");
    assert!(host.run_until(MINUTE, |host| host.status().next.as_deref() == Some("another try")), "{:?}", host.status());
    assert!(host.run_until(5 * MINUTE, |host| !host.world.balancers["default"].out), "{:?}", host.status());
    assert_eq!(host.state(), Some(State::Converging));
    let waited = host.waited(None);
    assert!(matches!(waited, Some(Waited::Pending { .. })), "{waited:?}");
    assert!(host.run_until(70 * MINUTE, |host| host.state() == Some(State::Converged)), "{:?}", host.status());
    assert_eq!(host.memory().last_rollout.as_ref().map(|view| view.id.as_str()), Some("r0"), "that was one rollout");
    host.must_be_right();
}

/// The same while its proof is asked for.
#[test]
fn php_fpm_that_dies_in_its_proof_is_not_said_to_run() {
    let rules = FpmRules { proof: Some(ProofRules { script: "/srv/app/version.php".to_owned() }), ..fpm_rules() };
    let mut host = fpm_host_by(rules, true, Fpm::default());
    host.world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap().start = FpmStart::Dies(2 * S);
    host.world.touch("d2");
    host.world.code.retain(|(_, id)| id != "d2");
    assert!(host.run_until(MINUTE, |host| unit_ends(host).next().is_some()), "{:?}", host.status());
    let why = unit_ends(&host).next().map(|end| end.why.clone()).unwrap_or_default();
    assert!(why.contains("it served, and has died since: Failed, Result="), "{why}");
    host.must_be_right();
}

/// It fails again and again beside a script that drains for twenty minutes.
#[test]
fn a_rollout_ends_when_only_tries_of_what_has_failed_are_left() {
    let mut host = beside_a_script_that_drains(20 * MINUTE);
    let fpm = host.world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap();
    (fpm.start, fpm.pings) = (FpmStart::Well(60 * MS), false);
    host.world.touch("d2");
    assert!(host.run_until(25 * MINUTE, |host| host.state() == Some(State::Failed)), "{:?}", host.status());
    assert!(unit_ends(&host).filter(|end| end.unit == FPM).count() > 3, "it was not tried again");
    assert!(matches!(host.waited(None), Some(Waited::Failed { .. })), "{:?}", host.waited(None));
    host.must_be_right();
}

/// What requires it stops first. The next agent finds it at work, with its restart in the queue of systemd.
#[test]
fn a_restart_that_waits_in_the_queue_of_systemd_is_the_only_one_though_the_agent_is_started_anew() {
    let load = Load {
        every: 200 * MS,
        strays_every: 0,
        short: (5 * MS, 30 * MS),
        long_percent: 10,
        long: (20 * S, 30 * S),
        until: START + 24 * S,
    };
    for waits in (20 * MS..500 * MS).step_by(20_000).chain([5 * S]) {
        let mut host = fpm_host(false, Fpm { workers: 40, load, ..Fpm::default() });
        host.world.units.get_mut(FPM).unwrap().stop_waits = waits;
        host.run(10 * S);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.units[FPM].job.is_some()));
        host.kill_agent();
        host.start_agent();
        assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
        host.run(S);
        host.check_at_rest();
        host.must_be_right();
        let restarts = host.world.units[FPM].runs.iter().filter(|(_, by)| *by == By::Agent).count();
        assert_eq!(restarts, 1, "{waits}");
        assert!(!host.casualties().is_empty(), "{waits}");
    }
}
