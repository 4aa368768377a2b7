//! What is lent to units for the time of a rollout (law 7): drop-ins that make a stop come out right, and a Reload for each batch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::cooperation::{RUN, cut_name, quiet_name, request_name};
use super::effect::{Effect, EffectId, Outcome};
use super::seen::UnitSeen;
use super::step::{Deadline, Turn, earliest};
use super::time::Mono;

/// After a Lend or Unlend that failed.
const RETRY: Duration = Duration::from_secs(2);
/// One Reload takes all loans back when nothing is being stopped any more; nobody waits longer than this for others to end.
const BACK_PATIENCE: Duration = Duration::from_secs(5);
/// After so many failed tries in a row whoever waits for the loan is told.
const TRIES: u32 = 3;

/// So much later than our SIGKILL comes systemd's own, by which a script would be a failure (facts F1.3). On a host where hundreds of scripts are
/// stopped at once ours was measured to be 7 s late.
const SCRIPT_SLACK: Duration = Duration::from_secs(60);

/// Whether a unit has what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Loan {
    Coming,
    Here,
    Failed(String),
}

#[derive(Debug, Default)]
pub struct Loans {
    wanted: BTreeMap<String, String>,
    /// Lent, and systemd has reloaded since.
    here: BTreeMap<String, String>,
    /// What is being lent; empty: taken back.
    pending: Option<(EffectId, BTreeMap<String, String>)>,
    failed: u32,
    /// Since when something is to be given back while something else is being stopped.
    back_since: Option<Mono>,
    trouble: Option<String>,
    next_try: Mono,
}

impl Loans {
    /// The unit is to have this drop-in.
    pub fn want(&mut self, unit: &str, drop_in: &str) {
        if !self.wanted.contains_key(unit) {
            self.wanted.insert(unit.to_owned(), drop_in.to_owned());
        }
    }

    /// The unit needs it no more.
    pub fn release(&mut self, unit: &str) {
        self.wanted.remove(unit);
    }

    pub fn of(&self, unit: &str) -> Loan {
        if self.is_here(unit) {
            return Loan::Here;
        }
        match &self.trouble {
            Some(trouble) if self.failed >= TRIES => Loan::Failed(trouble.clone()),
            _ => Loan::Coming,
        }
    }

    /// It has what is wanted for it, and not something else that it was lent before.
    fn is_here(&self, unit: &str) -> bool {
        self.here.get(unit).is_some_and(|here| self.wanted.get(unit).is_none_or(|wanted| wanted == here))
    }

    /// `gathering`: some target has not had its first look, so more may be wanted: one Reload serves all. `stopping`: some unit is
    /// being stopped and will want to give back soon: one Reload serves those too. `keeps`: what this unit was lent still keeps it quiet.
    pub fn advance(&mut self, turn: &mut Turn<'_>, gathering: bool, stopping: bool, keeps: &dyn Fn(&str) -> bool) {
        if self.pending.is_some() || turn.now.mono < self.next_try {
            return;
        }
        let back = turn.memory.lent.iter().filter(|unit| !self.wanted.contains_key(*unit) && !keeps(unit));
        let back: Vec<String> = back.cloned().collect();
        self.back_since = if back.is_empty() || !stopping { None } else { self.back_since.or(Some(turn.now.mono)) };
        let long = self.back_since.is_some_and(|since| turn.now.mono >= since.after(BACK_PATIENCE));
        if !back.is_empty() && (!stopping || long) && !gathering {
            self.back_since = None;
            // From now on nobody knows what they have, should the Reload fail.
            self.here.retain(|unit, _| !back.contains(unit));
            let id = turn.ask(Effect::Unlend { units: back.clone() });
            self.pending = Some((id, BTreeMap::new()));
            return;
        }
        let missing = self.wanted.iter().filter(|(unit, _)| !self.is_here(unit));
        let missing: BTreeMap<String, String> = missing.map(|(unit, text)| (unit.clone(), text.clone())).collect();
        if !missing.is_empty() && !gathering && turn.journal_good {
            let id = turn.ask(Effect::Lend { drop_ins: missing.clone() });
            self.pending = Some((id, missing));
        }
    }

    pub fn outcome(&mut self, turn: &Turn<'_>, id: EffectId, outcome: &Outcome) -> bool {
        let Some((_, lent)) = self.pending.take_if(|(pending, _)| *pending == id) else { return false };
        match outcome {
            Outcome::Done => {
                self.failed = 0;
                self.trouble = None;
                // What was given back is not here since before it was asked for.
                self.here.extend(lent);
            }
            other => {
                self.failed = self.failed.saturating_add(1);
                self.trouble = Some(format!("cannot write zz-restart-agent.conf and reload systemd: {}", other.said()));
                self.next_try = turn.now.mono.after(RETRY);
            }
        }
        true
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    #[must_use]
    pub fn deadline(&self, turn_lent: &BTreeSet<String>) -> Option<Deadline> {
        let work = self.wanted.keys().any(|unit| !self.is_here(unit)) || turn_lent.iter().any(|unit| !self.wanted.contains_key(unit));
        let again =
            (self.pending.is_none() && work && self.trouble.is_some()).then(|| Deadline::new(self.next_try, "systemd: reload again"));
        let back = self
            .back_since
            .map(|since| Deadline::new(since.after(BACK_PATIENCE), "give back what some need no more, though others are being stopped"));
        earliest([again, back])
    }
}

/// What a script is lent: a stop by us is no failure, unless it has OnSuccess=; the whole cgroup gets the signal, and systemd's own deadline is later than ours
/// (facts F1.3). With several ExecStart= the next command must not run in the middle of the stop (facts F1.5, M3). As long as `quiet/UNIT` exists
/// nothing starts it: systemd skips a start whose condition fails, and its timers go on as if it had run (measured with all kinds of timers on 252
/// and 257).
#[must_use]
pub fn script_drop_in(unit: &UnitSeen, term_timeout: Duration) -> String {
    // By the name that the files have, which may be an alias: %n is the unit's own.
    let quiet = quiet_name(&unit.unit);
    let mut text = format!(
        "# Lent by restart-agent for the time of a rollout.\n[Unit]\nConditionPathExists=!{RUN}/{quiet}\n[Service]\nKillMode=control-group\n"
    );
    // A unit with OnSuccess= is given no success that it did not earn (facts M2), not even if it takes SIGTERM by exiting with 0.
    // Unlike in a condition, a backslash (`\x2d`) stands for an escape here.
    let [cut, asked] = [cut_name(&unit.unit), request_name(&unit.unit)].map(|name| name.replace('\\', "\\\\"));
    if unit.on_success {
        let _ = writeln!(text, "ExecStopPost=/usr/bin/test ! -e {RUN}/{cut}");
    } else {
        text.push_str("SuccessExitStatus=SIGTERM SIGKILL 143 137 75 SIGINT 130 SIGHUP 129 SIGQUIT 131 SIGUSR1 138 SIGUSR2 140\n");
        // It is lent this for as long as the rollout lasts: one that ends so by itself meanwhile is a failure as ever.
        let _ = writeln!(text, "ExecStopPost=/usr/bin/test -e {RUN}/{cut} -o -e {RUN}/{asked} -o ${{EXIT_STATUS}} = 0");
    }
    let _ = writeln!(text, "TimeoutStopSec={}ms", (term_timeout + SCRIPT_SLACK).as_millis());
    if unit.exec_starts > 1 {
        text.push_str(EXEC_RESET);
    }
    text
}

/// With this none of the later commands of a script begins (facts M3). It stands for at least two.
pub const EXEC_RESET: &str = "ExecStart=\nExecStart=/bin/true\n";

/// What the timer of a script is lent: one whose slot has passed fires when the script ends, and not up to a minute later (`AccuracySec=`), when it
/// could not be told from the next slot.
pub const TIMER_DROP_IN: &str = "# Lent by restart-agent for the time of a rollout.\n[Timer]\nAccuracySec=1ms\n";

/// What php-fpm is lent: children that ignore SIGTERM do not keep it down (facts 7a, M1), and it is systemd's deadline that is later.
#[must_use]
pub fn fpm_drop_in(term_timeout: Duration) -> String {
    format!(
        "# Lent by restart-agent for the time of a rollout.\n[Service]\nKillMode=mixed\nTimeoutStopSec={}ms\n",
        (term_timeout + Duration::from_secs(5)).as_millis()
    )
}

/// What a service is lent that is asked: exit status 75 is no failure then, and what systemd starts again by itself (Restart=) it does not start before
/// the request is taken back, or each run would end at once, up to the start limit. One with OnSuccess= is given no success that it did not earn
/// (facts M2). What it would leave behind at its checkpoint ends with it, or its next run would begin among that.
#[must_use]
pub fn service_drop_in(unit: &UnitSeen) -> String {
    let exit = if unit.on_success { "" } else { "SuccessExitStatus=75\n" };
    let head = if unit.leaves_processes { RESTART_DROP_IN } else { "# Lent by restart-agent for the time of a rollout.\n[Service]\n" };
    format!("{head}RestartSec=60s\n{exit}")
}

/// What a service is lent for its restart whose `KillMode=` or `SendSIGKILL=` would leave processes of its old run behind, with the old code.
pub const RESTART_DROP_IN: &str =
    "# Lent by restart-agent for the time of a rollout.\n[Service]\nKillMode=control-group\nSendSIGKILL=yes\n";
