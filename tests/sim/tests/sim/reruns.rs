//! Scripts that are to run again since the agent has interrupted them, however that came about.

use restart_agent::core::effect::Effect;
use restart_agent::core::event::Order;
use restart_agent::core::policy::{After, Overdue, ScheduledRules, TargetRules};
use restart_agent::core::status::State;
use sim::host::{Deed, Host, span};
use sim::world::{Bar, By, HOUR, MINUTE, MS, OnTerm, S, Script, Us};

use crate::given::{SCRIPT, policy, script_host, script_rules, with_target};

/// These rules from now on.
fn by(mut host: Host, rules: ScheduledRules) -> Host {
    host.deed(Deed::Policy(Box::new(with_target(policy(), "maintenance", TargetRules::Scheduled(rules)))));
    host
}

fn asking() -> ScheduledRules {
    ScheduledRules { checkpoint_timeout: span(20 * S), ..script_rules(After::Rerun) }
}

fn is_asked(host: &mut Host) {
    assert!(host.run_until(2 * MINUTE, |host| host.world.asked.contains(SCRIPT)));
}

/// So long later all is in order, and it has run so often.
fn has_run(mut host: Host, after: Us, times: usize, what: &str) {
    host.run(after);
    host.settle();
    host.must_be_right();
    assert_eq!(host.world.units[SCRIPT].runs.len(), times, "{what}");
}

/// systemd is not done with what it has left behind when the time is over that it has to reach a checkpoint, or a hold comes.
#[test]
fn one_that_ends_at_a_checkpoint_and_leaves_a_child_behind_runs_again_though_it_is_spared() {
    let child = || Script { checkpoint: Some(2 * S), stubborn_child: true, ..Script::default() };
    let finish = || ScheduledRules { overdue: Some(Overdue::Finish), ..asking() };
    let mut host = by(script_host(After::Rerun, child(), HOUR), finish());
    host.world.touch("d2");
    is_asked(&mut host);
    has_run(host, 5 * MINUTE, 2, "it is let finish");
    for rules in [finish(), asking()] {
        for span in [MINUTE, HOUR].map(span) {
            let mut host = by(script_host(After::Rerun, child(), HOUR), rules.clone());
            host.world.touch("d2");
            is_asked(&mut host);
            host.later(5 * S, Deed::Order(Order::Hold { reason: "a dump".to_owned(), span, targets: None }));
            has_run(host, 5 * MINUTE, 2, "held");
        }
    }
}

/// The rules change while what it has left behind is still ending.
#[test]
fn one_that_has_said_that_it_is_to_run_again_stays_quiet_if_its_rules_say_so_when_it_has_ended() {
    for (after, runs) in [(After::UntilNext, 1), (After::Auto, 2)] {
        let child = Script { checkpoint: Some(2 * S), stubborn_child: true, ..Script::default() };
        let mut host = by(script_host(After::Rerun, child, HOUR), asking());
        host.world.touch("d2");
        is_asked(&mut host);
        assert!(host.run_until(5 * S, |host| host.world.units[SCRIPT].checkpointed));
        host.run(2 * S);
        has_run(by(host, ScheduledRules { after, ..asking() }), 2 * MINUTE, runs, &format!("{after:?}"));
    }
}

/// systemd would give it a minute more than its rules do, which is there for when there is no agent.
#[test]
fn what_one_that_has_ended_at_a_checkpoint_leaves_behind_ends_by_its_rules_after_a_hold() {
    let child = Script { checkpoint: Some(2 * S), stubborn_child: true, ..Script::default() };
    let mut host = by(script_host(After::Rerun, child, HOUR), asking());
    host.world.touch("d2");
    is_asked(&mut host);
    host.later(5 * S, Deed::Order(Order::Hold { reason: "a dump".to_owned(), span: span(10 * S), targets: None }));
    host.run(14 * S);
    assert!(!host.world.sent.contains_key(SCRIPT), "it is held");
    host.run(25 * S);
    assert_eq!(host.world.units[SCRIPT].runs.len(), 2, "it goes on to end");
    has_run(host, MINUTE, 2, "once");
}

/// The next agent has rules by which nobody is asked, and by which a script that was only stopped stays quiet.
#[test]
fn one_that_has_ended_at_a_checkpoint_by_the_rules_before_runs_again() {
    let checkpoint = Script { checkpoint: Some(2 * S), ..Script::default() };
    let mut host = by(script_host(After::Rerun, checkpoint, HOUR), asking());
    host.world.touch("d2");
    is_asked(&mut host);
    host.kill_agent();
    let mut host = by(host, script_rules(After::Auto));
    host.run(5 * S);
    assert!(!host.world.units[SCRIPT].active.runs());
    host.start_agent();
    host.run(10 * S);
    assert_eq!(host.world.units[SCRIPT].runs.len(), 2, "without waiting for its timer");
    has_run(host, MINUTE, 2, "once");
}

/// With its loan, which is in force before anybody has said so, its second command does not run.
#[test]
fn one_of_several_commands_that_ends_as_its_last_while_its_loan_is_on_its_way_runs_again() {
    let lives = |lasts: Us| {
        let mut host = script_host(After::Rerun, Script { steps: 2, next_runs: [lasts].into(), ..Script::default() }, HOUR);
        host.world.touch("d2");
        host
    };
    let mut lent = lives(HOUR);
    assert!(lent.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].exec_reset()));
    let in_force = lent.world.now - lent.world.units[SCRIPT].main_start;
    assert!(lent.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
    let asked = lent.world.now - lent.world.units[SCRIPT].main_start;
    for part in 1..40 {
        let lasts = in_force + (asked - in_force) * part / 40;
        has_run(lives(lasts), 2 * MINUTE, 2, &format!("part {part}"));
    }
}

/// What begins while its loan is on its way is new, and its last.
#[test]
fn one_of_several_commands_that_renews_itself_while_its_loan_is_on_its_way_runs_again() {
    let lives = |lasts: Us| {
        let mut host = script_host(After::Rerun, Script { steps: 3, next_runs: [lasts, 5 * MINUTE].into(), ..Script::default() }, HOUR);
        host.world.faults.slowness = 40;
        host.world.touch("d2");
        host
    };
    let mut lent = lives(HOUR);
    assert!(lent.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].drop_in.is_some()));
    let written = lent.world.now - lent.world.units[SCRIPT].main_start;
    assert!(lent.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
    let asked = lent.world.now - lent.world.units[SCRIPT].main_start;
    for part in 0..40 {
        let lasts = written - 300 * MS + (asked - written + 300 * MS) * part / 40;
        let mut host = lives(lasts);
        host.run(10 * MINUTE);
        host.settle();
        assert_eq!(host.world.wrong, Vec::<String>::new(), "part {part}");
    }
}

/// One of two commands that holds its lock for longer than it is spared for that; the second lasts so long.
fn holds_its_lock(second: Us) -> Host {
    let holds = Script { steps: 2, holds: HOUR, next_runs: [second].into(), ..Script::default() };
    let rules = ScheduledRules { hold_timeout: span(20 * S), ..script_rules(After::Rerun) };
    by(script_host(After::Rerun, holds, HOUR), rules)
}

/// The agent dies before the stop for which it was lent something; the next one spares it for its lock first, and then a hold comes.
#[test]
fn one_of_several_commands_whose_stop_was_lost_runs_again_when_it_ends_as_its_last() {
    let mut host = holds_its_lock(150 * S);
    host.world.touch("d2");
    let stop = |host: &Host| host.memory().open.values().any(|open| matches!(open, Effect::Stop { .. }));
    assert!(host.run_until(2 * MINUTE, stop));
    host.deed(Deed::KillAgent(S));
    host.run(3 * S);
    host.deed(Deed::Order(Order::Hold { reason: "a dump".to_owned(), span: span(HOUR), targets: None }));
    assert!(host.run_until(MINUTE, |host| !host.world.units[SCRIPT].active.runs()));
    assert_eq!(host.world.units[SCRIPT].last_stop_by_agent, host.world.units[SCRIPT].exit.map(|exit| exit.at.0));
    has_run(host, 2 * MINUTE, 2, "its second command did not run");
}

/// It has what it was lent for its stop when its target leaves the configuration, and goes on for an hour.
#[test]
fn nobody_waits_for_the_end_of_what_is_perhaps_owed_a_run_then() {
    let mut host = script_host(After::Rerun, Script { steps: 2, ..Script::default() }, HOUR);
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].exec_reset()));
    host.deed(Deed::Policy(Box::new(policy())));
    host.run(6 * S);
    assert!(host.memory().rollout.is_none(), "{:?}", host.memory().rollout);
    assert!(host.world.units[SCRIPT].active.runs() && !host.world.sent.contains_key(SCRIPT));
    let before = host.effects;
    host.run(10 * MINUTE);
    assert!(host.effects - before < 40, "{} effects in ten minutes", host.effects - before);
    has_run(host, HOUR, 2, "its second command did not run");
}

/// Its second command does not run, though its stop is refused. Whether it is to run again for that, the rules say by which it has ended.
#[test]
fn one_of_several_commands_whose_stop_is_refused_runs_again_if_its_rules_say_so_when_it_has_ended() {
    for (after, runs) in [(Some(After::UntilNext), 1), (Some(After::Rerun), 2), (None, 1)] {
        let commands = Script { steps: 2, next_runs: [3 * MINUTE].into(), ..Script::default() };
        let mut host = script_host(After::UntilNext, commands, HOUR);
        host.world.touch("d2");
        assert!(host.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].exec_reset()));
        host.world.person_bars(SCRIPT, Bar::RefusesStop, None);
        host.run(5 * S);
        assert!(host.world.units[SCRIPT].active.runs() && !host.world.units[SCRIPT].exec_reset());
        let rules = after.map(|after| ("maintenance", TargetRules::Scheduled(script_rules(after))));
        host.deed(Deed::Policy(Box::new(rules.map_or_else(policy, |(target, rules)| with_target(policy(), target, rules)))));
        has_run(host, 5 * MINUTE, runs, &format!("{after:?}"));
    }
}

/// Nobody knows whether systemd has heard that it is to be started.
#[test]
fn one_whose_start_systemd_does_not_answer_is_started_as_soon_as_it_does() {
    for away in [S, 20 * S, 3 * MINUTE] {
        let mut host = script_host(After::Rerun, Script::default(), HOUR);
        host.world.touch("d2");
        let start = |host: &Host| host.memory().open.values().any(|open| matches!(open, Effect::Start { .. }));
        assert!(host.run_until(2 * MINUTE, start));
        host.world.faults.systemd_away_until = host.world.now + away;
        host.run(away);
        assert_eq!(host.world.units[SCRIPT].runs.len(), 1);
        host.run(6 * S);
        assert_eq!(host.world.units[SCRIPT].runs.len(), 2, "{away}");
        assert_eq!(host.memory().totals.rollouts.get("failed"), None);
        has_run(host, MINUTE, 2, "it was started again");
    }
}

/// The next agent spares it for its lock, and has lent it nothing itself.
#[test]
fn one_of_several_commands_that_an_earlier_agent_has_lent_to_runs_again_when_it_ends_as_its_last() {
    let mut host = holds_its_lock(130 * S);
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].exec_reset()));
    host.deed(Deed::KillAgent(S));
    host.run(2 * S);
    assert!(host.world.units[SCRIPT].active.runs() && !host.world.sent.contains_key(SCRIPT));
    has_run(host, 2 * MINUTE, 2, "its second command did not run");
}

/// Whatever its rules were: by its exit status it has said that it is to be run again.
#[test]
fn one_that_ends_at_a_checkpoint_and_leaves_the_configuration_while_the_agent_is_away_runs_again() {
    let mut host = by(script_host(After::Rerun, Script { checkpoint: Some(10 * S), ..Script::default() }, HOUR), asking());
    host.world.touch("d2");
    is_asked(&mut host);
    host.kill_agent();
    host.run(15 * S);
    assert!(!host.world.units[SCRIPT].active.runs());
    host.deed(Deed::Policy(Box::new(policy())));
    host.start_agent();
    has_run(host, MINUTE, 2, "its target has gone");
}

/// It stays quiet by the rules by which it was stopped.
#[test]
fn one_that_is_excluded_while_it_is_owed_a_run_waits_for_its_timer_as_before() {
    let mut host = script_host(After::Auto, Script::default(), 20 * MINUTE);
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].stop.is_some()));
    host.kill_agent();
    host.run(S);
    assert!(host.memory().reruns.contains_key(SCRIPT));
    let mut host = by(host, ScheduledRules { exclude: vec![SCRIPT.to_owned()], ..script_rules(After::Auto) });
    host.start_agent();
    host.run(500 * MS);
    has_run(host, MINUTE, 1, "it was started");
}

/// Its loan was never in force, so all its commands have run.
#[test]
fn one_of_several_commands_whose_loan_fails_is_owed_no_run() {
    for fails in [35 * S, 100 * S] {
        let script = Script { steps: 2, next_runs: [110 * S, 90 * S].into(), ..Script::default() };
        let mut host = script_host(After::Rerun, script, HOUR);
        host.world.touch("d2");
        host.world.faults.reload_fails_until = host.world.now + fails;
        assert!(host.run_until(MINUTE, |host| host.memory().reruns.contains_key(SCRIPT)));
        has_run(host, 5 * MINUTE, 1, "all its commands have run");
    }
}

/// It has reached its checkpoint, and what it has left behind outlives the request, which is taken back when its stop cannot be written down.
#[test]
fn one_that_has_heeded_a_request_runs_again_when_it_has_settled_though_a_later_rollout_ends_what_it_has_left_behind() {
    for settle_after in [0, MINUTE] {
        let script = Script { checkpoint: Some(2 * S), stubborn_child: true, next_runs: [HOUR, 10 * S].into(), ..Script::default() };
        let mut host = by(script_host(After::Rerun, script, HOUR), ScheduledRules { settle_after: span(settle_after), ..asking() });
        host.world.touch("d2");
        is_asked(&mut host);
        host.run(5 * S);
        host.deed(Deed::DiskFull);
        assert!(host.run_until(MINUTE, |host| host.world.asked.is_empty()));
        host.deed(Deed::DiskGood);
        host.world.touch("id = \"d3\"\nforce = true\n");
        assert!(host.run_until(5 * MINUTE, |host| !host.world.units[SCRIPT].active.runs()));
        has_run(host, 2 * MINUTE, 2, &format!("{settle_after}"));
    }
}

/// Somebody's stop has ended its first command, and its second one goes on regardless, past a slot. What it was lent meanwhile came into force with a
/// Reload of somebody else's, when it had nothing to cut short any more.
#[test]
fn the_slot_of_one_of_several_commands_that_a_person_has_stopped_before_its_loan_is_made_up_for() {
    let on_term = OnTerm::Exits { status: 0, after: S };
    let commands = Script { steps: 2, next_runs: [HOUR, MINUTE, 10 * S, 10 * S].into(), on_term, ..Script::default() };
    let mut host = script_host(After::Rerun, commands, 0);
    let _ = host.world.person("stop", SCRIPT, By::Person);
    host.run(5 * S);
    let slot = host.world.now + 50 * S;
    host.world.timer(SCRIPT, HOUR, slot);
    host.world.touch("d2");
    host.world.faults.reload_fails_until = host.world.now + 40 * S;
    host.later(42 * S, Deed::World("a person reloads systemd", Box::new(|world| world.reload())));
    assert!(host.run_until(2 * MINUTE, |host| !host.world.units[SCRIPT].active.runs()));
    has_run(host, MINUTE, 2, "its slot came while it ran");
}

/// Its loan comes late, and somebody restarts it meanwhile, of which nobody is told.
#[test]
fn a_script_that_somebody_restarts_while_its_loan_is_on_its_way_is_not_stopped_for_that() {
    for late in 1..=10 {
        let mut host = script_host(After::Rerun, Script::default(), HOUR);
        (host.world.faults.lost_hints, host.world.faults.reload_fails_until) = (100, host.world.now + S);
        host.deed(Deed::Order(Order::Trigger { targets: None, force: true, override_hold: false, reason: None }));
        host.later(late * 200 * MS, Deed::World("a person", Box::new(|world| drop(world.person("restart", SCRIPT, By::Person)))));
        host.run(10 * S);
        host.must_be_right();
        assert!(host.world.units[SCRIPT].runs.len() <= 3, "{late}");
    }
}

/// Nobody is told of that, and its loan comes into force when its new run has begun. A run that the loan never reaches is not owed another one.
#[test]
fn one_of_several_commands_that_somebody_restarts_while_its_loan_is_on_its_way_runs_again_when_it_ends_as_its_last() {
    for (fails, runs) in [(0, 3), (30 * S, 2)] {
        for late in 31..=40 {
            let commands = Script { steps: 2, next_runs: [HOUR, MINUTE, MINUTE].into(), ..Script::default() };
            let mut host = script_host(After::Rerun, commands, HOUR);
            (host.world.faults.slowness, host.world.faults.lost_hints) = (40, 100);
            host.world.faults.reload_fails_until = host.world.now + fails;
            host.deed(Deed::Order(Order::Trigger { targets: None, force: true, override_hold: false, reason: None }));
            host.later(late * 10 * MS, Deed::World("a person", Box::new(|world| drop(world.person("restart", SCRIPT, By::Person)))));
            has_run(host, 5 * MINUTE, runs, &format!("{late}"));
        }
    }
}

/// The same when the agent dies meanwhile.
#[test]
fn one_of_several_commands_that_somebody_restarts_before_its_loan_is_in_force_is_owed_a_run_by_the_next_agent() {
    for leaves in [false, true] {
        let commands = Script { steps: 2, next_runs: [HOUR, MINUTE].into(), ..Script::default() };
        let mut host = script_host(After::Rerun, commands, HOUR);
        host.world.touch("d2");
        assert!(host.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].drop_in.is_some()));
        host.kill_agent();
        let _ = host.world.person("restart", SCRIPT, By::Person);
        assert!(host.run_until(S, |host| host.world.units[SCRIPT].runs.len() == 2));
        assert!(host.world.units[SCRIPT].in_force.is_none(), "{leaves}: it comes into force with somebody's Reload");
        host.world.reload();
        assert!(host.world.units[SCRIPT].exec_reset());
        if leaves {
            host.deed(Deed::Policy(Box::new(policy())));
        }
        host.start_agent();
        has_run(host, 3 * MINUTE, 3, &format!("{leaves}: its second command did not run"));
    }
}

/// It is stuck in the kernel when its rules change, and ends when no rollout is at it.
#[test]
fn one_that_was_stopped_by_rules_that_let_it_rest_and_ends_by_others_runs_again() {
    for stuck in 0..6 {
        let script = Script { unkillable_for: 5 * MINUTE + stuck * 5 * S, ..Script::default() };
        let mut host = script_host(After::UntilNext, script, HOUR);
        host.world.touch("d2");
        assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Failed)));
        let host = by(host, script_rules(After::Rerun));
        has_run(host, 10 * MINUTE, 2, &format!("{stuck}"));
    }
}

/// While a deploy is being put on the host no script may start. A start that waits for that in systemd is gone with the host.
#[test]
fn one_that_is_stopped_while_no_script_may_start_runs_again_as_soon_as_it_may() {
    let stopped = || {
        let mut host = script_host(After::Rerun, Script::default(), HOUR);
        host.deed(Deed::Touch("id = \"d2\"\nphase = \"begin\"\n".to_owned()));
        host.run(S);
        host.deed(Deed::Order(Order::Trigger { force: true, override_hold: false, targets: None, reason: None }));
        assert!(host.run_until(S, |host| host.memory().rollout.is_some()));
        assert!(host.run_until(MINUTE, |host| host.memory().rollout.is_none()), "it does not wait for that");
        host.run(MINUTE);
        assert_eq!(host.world.units[SCRIPT].runs.len(), 1, "no script may start");
        host
    };
    let mut done = stopped();
    done.world.touch("d2");
    done.run(S);
    assert_eq!(done.world.units[SCRIPT].runs.len(), 2, "at once");
    has_run(done, MINUTE, 2, "done");
    let mut killed = stopped();
    killed.deed(Deed::KillAgent(20 * MINUTE));
    has_run(killed, 21 * MINUTE, 2, "killed");
    let mut rebooted = stopped();
    rebooted.deed(Deed::Reboot(5 * S));
    has_run(rebooted, MINUTE, 2, "rebooted");
}

/// It waits for what it has left behind to settle, somebody else is quicker to start it, and the host goes down. That it has run since only those know who have
/// looked before that.
#[test]
fn one_that_was_seen_to_have_run_before_it_has_settled_is_owed_no_run_after_a_reboot() {
    for (deploy, runs) in [(Some("d3"), 2), (None, 3)] {
        let script = Script { checkpoint: Some(2 * S), next_runs: [HOUR, HOUR, 10 * S].into(), ..Script::default() };
        let rules = ScheduledRules { settle_after: span(5 * MINUTE), ..asking() };
        let mut host = by(script_host(After::Rerun, script, 0), rules);
        host.world.touch("d2");
        is_asked(&mut host);
        assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
        let _ = host.world.person("start", SCRIPT, By::Person);
        deploy.into_iter().for_each(|deploy| host.world.touch(deploy));
        host.run(5 * S);
        host.deed(Deed::Reboot(5 * S));
        has_run(host, 10 * MINUTE, runs, &format!("looked at for {deploy:?}"));
    }
}
