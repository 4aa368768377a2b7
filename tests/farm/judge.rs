//! What a unit's timeline must be: each start explained, each slot served, each end as the rules say. A pure function of what was seen.

use std::fmt::Write as _;

use lab::ledger::{How, LOCK_IS_STALE_AFTER, Run};

use crate::units::{After, QUIET_WITHIN};

/// A start may be so much later than its slot: systemd starts nothing while it reloads and before it has done the stops that it was asked
/// for, which takes seconds on a busy machine. Less than any gap, so that no run stands for two slots.
const LATE: f64 = 4.9;
/// Times of scripts and of systemd are so close.
const DOWN: f64 = 0.4;
/// What systemd was asked to start before a run began, it starts so soon after that.
const TAKEN_LATE: f64 = 0.5;
/// A slot within this after our stop is taken for one that has passed before it (docs/decisions/0007).
const TAKEN_FOR_PASSED: f64 = 1.0;

/// All that was seen of one unit.
#[derive(Debug, Clone)]
pub struct Seen {
    pub name: String,
    pub after: After,
    pub spared: bool,
    pub on_failure: bool,
    pub on_success: bool,
    pub slots: Vec<f64>,
    pub runs: Vec<Run>,
    /// When what was recorded as a casualty had been seen to be gone, and whether that it was cut is certain.
    pub casualties: Vec<(f64, bool)>,
    /// From when to when the rollouts went that call it renewed.
    pub renewed: Vec<(f64, f64)>,
    /// From when to when rollouts went, one after the other without a pause.
    pub rollouts: Vec<(f64, f64)>,
    pub failures: usize,
    pub successes: usize,
    /// How many runs had failed and succeeded by themselves a moment after those were counted.
    pub later: (usize, usize),
    /// Timers ran from then on.
    pub from: f64,
    /// It was looked at then.
    pub until: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Slot,
    /// A slot had passed while the run before was running, which then ended by itself (facts F2.2).
    Passed,
    Rerun,
    /// A slot came while it was kept quiet, since it was being stopped, or was to be.
    MadeUp,
    OffSchedule,
}

impl Seen {
    /// What is wrong, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let whys = self.whys();
        let mut problems = Vec::new();
        self.starts(&whys, &mut problems);
        self.missed(&mut problems);
        self.cuts(&whys, &mut problems);
        self.casualties(&mut problems);
        self.fired(&whys, &mut problems);
        problems
    }

    /// Why each run began.
    fn whys(&self) -> Vec<Why> {
        let mut renewed = self.renewed.clone();
        let mut served: Option<f64> = None;
        let mut whys = Vec::new();
        for (n, run) in self.runs.iter().enumerate() {
            let before = n.checked_sub(1).map(|n| &self.runs[n]);
            let down = before.map_or(0.0, |run| run.stopped.unwrap_or(f64::INFINITY));
            let ours = before.is_some_and(|run| matches!(run.how(), How::Cut | How::AtCheckpoint | How::Tie));
            let named = renewed.iter().position(|(from, until)| (*from..=*until + 1.0).contains(&run.start));
            if let Some(named) = named.filter(|_| ours) {
                renewed.remove(named);
                whys.push(Why::Rerun);
                continue;
            }
            let slot = self.slots.iter().copied().rfind(|slot| *slot <= run.start && run.start - slot <= LATE);
            let slot = slot.filter(|slot| *slot >= down - DOWN && served.is_none_or(|served| *slot > served));
            let passed = before.is_some_and(|run| self.slots.iter().any(|slot| (run.start..=down + DOWN).contains(slot)));
            whys.push(if let Some(slot) = slot {
                served = Some(slot);
                Why::Slot
            } else if passed && !ours && run.start - down <= LATE {
                Why::Passed
            } else if before.is_some_and(|before| self.made_up(before, run)) || self.crossed(n, down) {
                Why::MadeUp
            } else {
                Why::OffSchedule
            });
        }
        whys
    }

    /// A rollout kept it quiet from before the end of a run; what its slots then missed it is given as soon as it may run.
    fn made_up(&self, before: &Run, run: &Run) -> bool {
        let Some(down) = before.stopped else { return false };
        let by_itself = matches!(before.how(), How::ByItself(_));
        let missed_from = if by_itself { before.start } else { down - DOWN };
        let missed = self.slots.iter().any(|slot| (missed_from..=run.start).contains(slot));
        let kept_quiet = self.rollouts.iter().any(|(from, until)| *from <= down && down <= *until && run.start <= *until + LATE);
        missed && kept_quiet
    }

    /// It was asked for to make up for a slot, and the next slot was served before systemd, which may be busy for seconds, had taken that: it began
    /// when that run was over.
    fn crossed(&self, n: usize, down: f64) -> bool {
        let run = &self.runs[n];
        let earlier = n.checked_sub(2).map(|n| &self.runs[n]);
        run.start - down <= TAKEN_LATE && earlier.is_some_and(|earlier| self.made_up(earlier, run))
    }

    /// Until when what was stopped at this time has had to wait, at most: the rollouts that followed one another from then on.
    fn rollouts_end(&self, stopped: f64) -> f64 {
        self.rollouts.iter().find(|(from, until)| *from <= stopped && stopped <= *until).map_or(stopped, |(_, until)| *until)
    }

    fn starts(&self, whys: &[Why], problems: &mut Vec<String>) {
        for (run, why) in self.runs.iter().zip(whys) {
            if *why == Why::OffSchedule {
                problems.push(format!("off schedule: the start at {}", self.at(run.start)));
            }
        }
    }

    /// Slots at which it was idle, and that no run began at.
    fn missed(&self, problems: &mut Vec<String>) {
        for slot in self.slots.iter().filter(|slot| **slot > self.from && **slot + LATE < self.until) {
            let busy = self.runs.iter().any(|run| {
                let after = if matches!(run.how(), How::Cut | How::AtCheckpoint | How::Tie) { TAKEN_FOR_PASSED } else { DOWN };
                run.start <= *slot && run.stopped.is_none_or(|stopped| stopped + after >= *slot)
            });
            let served = self.runs.iter().any(|run| (*slot..=*slot + LATE).contains(&run.start));
            let pairs = self.runs.iter().zip(self.runs.iter().skip(1));
            let served = served
                || pairs
                    .into_iter()
                    .any(|(before, run)| (before.stopped.unwrap_or(f64::INFINITY)..=run.start).contains(slot) && self.made_up(before, run));
            if !busy && !served {
                problems.push(format!("missed: the slot at {}", self.at(*slot)));
            }
        }
    }

    /// What came after each cut is what its rule says.
    fn cuts(&self, whys: &[Why], problems: &mut Vec<String>) {
        for (n, run) in self.runs.iter().enumerate() {
            let how = run.how();
            let (How::Cut | How::AtCheckpoint, Some(stopped)) = (how, run.stopped) else { continue };
            if self.spared {
                problems.push(format!("its rules spare it: the run of {} was ended at {}", self.at(run.start), self.at(stopped)));
                continue;
            }
            let next = self.runs.get(n + 1).map(|run| run.start - stopped);
            let why = whys.get(n + 1).copied();
            let end = self.rollouts_end(stopped);
            let slot = self.slots.iter().copied().find(|slot| *slot > stopped).map_or(f64::INFINITY, |slot| slot - stopped);
            let again = match self.after {
                After::Rerun => true,
                After::UntilNext => false,
                // It is decided once the others are stopped too, and what was lent is given back.
                After::Auto if slot <= QUIET_WITHIN => false,
                After::Auto if slot > QUIET_WITHIN + end - stopped => true,
                After::Auto => continue,
            };
            let late = next.is_none_or(|after| stopped + after > end + LATE) && self.until > end + LATE;
            if again && late {
                problems.push(format!("not run again: cut at {}", self.at(stopped)));
            }
            let scheduled = next.is_some_and(|after| slot <= after);
            if !again && why == Some(Why::Rerun) && !scheduled {
                problems.push(format!("run again, though its rule is to be quiet: cut at {}", self.at(stopped)));
            }
        }
    }

    /// Each cut is recorded once, and nothing else is.
    fn casualties(&self, problems: &mut Vec<String>) {
        let mut left = self.casualties.clone();
        // What nobody can say may be recorded or not.
        for (how, must) in [(How::Cut, true), (How::Tie, false)] {
            for stopped in self.runs.iter().filter(|run| run.how() == how).filter_map(|run| run.stopped) {
                let end = self.rollouts_end(stopped) + 1.0;
                match left.iter().position(|(at, _)| (stopped - 1.0..=end).contains(at)) {
                    Some(n) => drop(left.remove(n)),
                    None if must => problems.push(format!("no casualty for what was cut at {}", self.at(stopped))),
                    None => {}
                }
            }
        }
        for (at, _) in left.iter().filter(|(_, certain)| *certain) {
            problems.push(format!("the casualty of {} is called certain, and no run was cut", self.at(*at)));
        }
    }

    /// OnFailure= and OnSuccess= were started by runs that ended by themselves, and by nothing else.
    fn fired(&self, whys: &[Why], problems: &mut Vec<String>) {
        let by_itself = |failed: bool| {
            let ended = |run: &&Run| matches!(run.how(), How::ByItself(status) if (status != 0) == failed);
            self.runs.iter().filter(ended).count()
        };
        let ties = self.runs.iter().filter(|run| run.how() == How::Tie).count();
        let mut compare = |what: &str, has: bool, fired: usize, own: usize, later: usize| {
            if has && !(own..=later + ties).contains(&fired) {
                problems.push(format!("{own} to {later} of its runs ended so by themselves, {what} was started {fired} times"));
            }
        };
        compare("OnFailure=", self.on_failure, self.failures, by_itself(true), self.later.0);
        // One whose end and whose stop crossed on their way to systemd is denied its success (docs/decisions/0005).
        let crossed = |run: &&Run| matches!(run.how(), How::ByItself(0)) && run.stopped.is_some_and(|at| self.rollouts_end(at) > at);
        let crossed = self.runs.iter().filter(crossed).count();
        compare("OnSuccess=", self.on_success, self.successes, by_itself(false).saturating_sub(crossed), self.later.1);
        for (n, (run, why)) in self.runs.iter().zip(whys).enumerate() {
            if run.said("locked") && *why != Why::Slot {
                problems.push(format!("failed through us: the rerun at {} ran into the lock of the run before", self.at(run.start)));
            }
            if run.said("locked") {
                let before = n.checked_sub(1).and_then(|n| self.runs[n].stopped).unwrap_or_default();
                if run.start - before > LOCK_IS_STALE_AFTER + 1.0 {
                    problems.push(format!("the lock at {} was nobody's", self.at(run.start)));
                }
            }
        }
    }

    /// Seconds from the first slot's minute on, which the timeline uses too.
    fn at(&self, time: f64) -> String {
        format!("{:.1}", time - self.from)
    }

    /// Its whole story, a line for each event. Times in seconds since its timer began.
    pub fn timeline(&self, deploys: &[f64]) -> String {
        let mut events: Vec<(f64, String)> = deploys.iter().map(|at| (*at, "- deploy".to_owned())).collect();
        events.extend(self.slots.iter().filter(|slot| **slot < self.until).map(|slot| (*slot, "slot".to_owned())));
        events.extend(
            self.rollouts.iter().flat_map(|(from, until)| [(*from, "- rollout begins".to_owned()), (*until, "- rollouts end".to_owned())]),
        );
        let recorded = |certain: bool| if certain { "casualty recorded" } else { "casualty recorded, not certain" };
        events.extend(self.casualties.iter().map(|(at, certain)| (*at, recorded(*certain).to_owned())));
        for (from, until) in &self.renewed {
            events.push((*from, format!("renewed in a rollout until {}", self.at(*until))));
        }
        for (run, why) in self.runs.iter().zip(self.whys()) {
            let name = &run.invocation[..4.min(run.invocation.len())];
            for (at, words) in &run.words {
                let words = if words == "start" { format!("start: {why:?}") } else { words.clone() };
                events.push((*at, format!("{name} {words}")));
            }
        }
        events.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut text = format!("{} ({:?}{})\n", self.name, self.after, if self.spared { ", spared" } else { "" });
        for (at, what) in events {
            let _ = writeln!(text, "    {:>7} {what}", self.at(at));
        }
        text
    }
}
