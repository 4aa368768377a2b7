//! What a restart or a stop cuts: written down before it, settled after, so that no crash in between loses a casualty or invents one.

use super::cooperation::RUN_AGAIN;
use super::entry::Entry;
use super::memory::{Cutting, OwedRun};
use super::policy::ScheduledRules;
use super::seen::{Active, Exit, ExitSeen, UnitSeen};
use super::status::Casualty;
use super::step::Turn;
use super::time::{Mono, Span};

/// The restart that was to cut these requests took place, or did not: then they were not cut.
pub fn settle_cut(turn: &mut Turn<'_>, unit: &str, happened: bool, killed: bool) {
    settle(turn, unit, happened, |_, casualty| ended_by(casualty, killed));
}

/// This run goes on, so it is owed no other one for having been stopped. With what one of several commands was lent for that, none of the later ones of this
/// run begins all the same: whether it is owed another one is known when it has ended.
pub fn settle_rerun_of_running(turn: &mut Turn<'_>, seen: &UnitSeen, why: &str) {
    let Some(OwedRun { target, scheduled, quiet, reloaded, after, .. }) = turn.memory.reruns.get(&seen.unit).cloned() else { return };
    let unit = seen.unit.clone();
    if reloaded && after == seen.invocation && seen.exec_starts > 1 {
        turn.record(Entry::RerunOwed { unit, target, scheduled, lent: true, quiet, after });
    } else {
        turn.record(Entry::RerunSettled { unit, why: why.to_owned() });
    }
}

/// It waits to be run again until what it has left behind has settled, and has run since, whoever started it. Should the host go down meanwhile, nobody could
/// tell that any more.
pub fn settle_rerun_of_later(turn: &mut Turn<'_>, seen: &UnitSeen) {
    if turn.memory.reruns.get(&seen.unit).is_some_and(|owed| owed.settles.is_some() && owed.has_run(seen)) {
        turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: "it has run since".to_owned() });
    }
}

/// This run of several commands goes on, and has what one is lent for its stop, or is about to: none of its later ones begins. Whether it is owed
/// another run is known when it has ended.
pub fn owe_rerun_of_lent(turn: &mut Turn<'_>, seen: &UnitSeen, of: Option<(&str, &ScheduledRules)>) {
    let before = turn.memory.reruns.get(&seen.unit);
    let owed = before.is_some_and(|owed| owed.after == seen.invocation);
    if seen.exec_starts > 1 && seen.can_run_again() && turn.memory.lent.contains(&seen.unit) && !owed {
        let target = of.map(|(target, _)| target.to_owned()).unwrap_or_default();
        // What has left the configuration has the rules of the run before.
        let quiet = of.map_or_else(|| before.is_some_and(|owed| owed.quiet), |(_, rules)| !rules.may_rerun(seen));
        let (unit, after) = (seen.unit.clone(), seen.invocation.clone());
        turn.record(Entry::RerunOwed { unit, target, scheduled: false, lent: true, quiet, after });
    }
}

/// The same of a php-fpm that was stopped, and of which a look shows how its master ended: if that died by itself, or has been started again since,
/// and was only quicker than our stop, that is not certain to be our doing.
pub fn settle_cut_by_stop(turn: &mut Turn<'_>, seen: &UnitSeen, same: bool, killed: bool) {
    let died = seen.exit.is_some_and(|exit| match exit.how {
        Exit::Exited(status) => status != 0,
        Exit::Killed(signal) => signal != 15 && !killed && seen.result != "timeout",
    });
    settle(turn, &seen.unit, true, |_, casualty| {
        ended_by(casualty, killed);
        casualty.certain &= same && !died;
    });
}

/// The same of what an earlier agent had begun. If it had no answer any more, somebody else may have been quicker: what was cut then is not certain
/// to be our doing.
pub fn settle_cut_of_earlier(turn: &mut Turn<'_>, unit: &str, happened: bool) {
    settle(turn, unit, happened, |answered, casualty| casualty.certain &= answered);
}

/// What is written down before the stop says SIGTERM.
fn ended_by(casualty: &mut Casualty, killed: bool) {
    if killed {
        "SIGKILL".clone_into(&mut casualty.ended_by);
    }
}

/// `tell` is given whether systemd had answered the restart.
fn settle(turn: &mut Turn<'_>, unit: &str, happened: bool, tell: impl Fn(bool, &mut Casualty)) {
    let Some(cutting) = turn.memory.cutting.get(unit).cloned() else { return };
    if happened {
        for mut casualty in cutting.casualties {
            tell(cutting.answered, &mut casualty);
            turn.record(Entry::Casualty(casualty));
        }
    }
    turn.record(Entry::CutSettled { unit: unit.to_owned(), happened });
}

/// What was seen of a script between its stop and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saw {
    Nothing,
    /// systemd had begun to stop it, and its main process was still there.
    AtWork,
    /// systemd had begun to stop it before we asked for that.
    SomebodyElse,
}

/// The script has ended. Says whether that was our doing: it ended after it was asked to, whatever its exit status. That is not certain if
/// somebody else was stopping it already, or if it exited with 0, or 75, unless it was seen at work after systemd had begun to stop it: it
/// may have been done; nor if nobody knows that the stop was sent, since the agent has died, unless our SIGKILL ended it. Whoever was stopping the run
/// that was seen has not stopped the one that had begun, unseen, since. `killed`: since when our SIGKILL may have ended it. `done`: as in
/// [`found_another`].
pub fn settle_script(turn: &mut Turn<'_>, seen: &UnitSeen, killed: Option<Mono>, saw: Saw, done: Option<Mono>) -> bool {
    let Some(cutting) = turn.memory.cutting.get(&seen.unit).cloned() else { return false };
    // Of a later run its exit says nothing.
    let unseen = found_another(&cutting, seen, done);
    let Cutting { invocation, asked, casualties, answered, in_vain, .. } = cutting;
    let exit = seen.exit.filter(|exit| (seen.invocation == invocation || unseen) && exit.at != Mono::BOOT);
    let happened = !in_vain && exit.is_none_or(|exit| exit.at >= asked);
    if happened {
        for mut casualty in casualties {
            if unseen {
                casualty.pid = 0;
            }
            let by_sigkill = exit.is_some_and(|exit| exit.how == Exit::Killed(9));
            ended_by(&mut casualty, killed.is_some() || by_sigkill);
            if let Some(exit) = exit.filter(|_| seen.main_start != Mono::BOOT) {
                casualty.ran = Span(exit.at.since(seen.main_start)).to_string();
            }
            let by_stop = |exit: ExitSeen| match exit.how {
                Exit::Exited(0 | RUN_AGAIN) => answered && saw == Saw::AtWork,
                Exit::Exited(_) | Exit::Killed(_) => answered && saw != Saw::SomebodyElse,
            };
            // Our SIGKILL may have ended only what a main process has left behind, and systemd's own deadline that.
            let by_ours = by_sigkill && killed.is_some_and(|from| exit.is_some_and(|exit| exit.at >= from));
            casualty.certain = by_ours || ((casualty.certain || unseen) && exit.is_some_and(by_stop));
            casualty.at = turn.now.wall;
            turn.record(Entry::Casualty(casualty));
        }
    }
    if let Some(owed) = turn.memory.reruns.get(&seen.unit).filter(|_| happened && unseen && !seen.active.runs()).cloned() {
        // That run is not the one that is owed.
        let OwedRun { target, scheduled, lent, quiet, .. } = owed;
        let (unit, after) = (seen.unit.clone(), seen.invocation.clone());
        turn.record(Entry::RerunOwed { unit, target, scheduled, lent, quiet, after });
    }
    turn.record(Entry::CutSettled { unit: seen.unit.clone(), happened });
    happened
}

/// Whether this is another run than the one that was seen, which had begun, unseen, when the stop was asked for, or has while that was on its way, and
/// has ended by then that systemd said that the stop was `done`: then that has ended this one.
#[must_use]
pub fn found_another(cutting: &Cutting, seen: &UnitSeen, done: Option<Mono>) -> bool {
    let by_then = done.is_some_and(|done| seen.exit.is_some_and(|exit| exit.at != Mono::BOOT && exit.at <= done));
    seen.invocation != cutting.invocation && seen.main_start != Mono::BOOT && (seen.main_start < cutting.asked || by_then)
}

/// The stop or restart that was to cut it has begun and not ended.
#[must_use]
pub fn still_ending(cutting: &Cutting, seen: &UnitSeen) -> bool {
    let ending = seen.active == Active::Deactivating || (!seen.active.runs() && !seen.processes.is_empty());
    (seen.invocation == cutting.invocation || found_another(cutting, seen, None)) && ending
}

/// The stop or restart that was to cut it waits in systemd's queue, for what requires it and stops first.
#[must_use]
pub fn is_queued(cutting: &Cutting, seen: &UnitSeen) -> bool {
    seen.stop_job && (seen.invocation == cutting.invocation || found_another(cutting, seen, None))
}
