//! The journal: what is written so that nothing is forgotten. What it adds up to is [`super::memory::Memory`].

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::deploy::{Deploy, StampIdentity};
use super::effect::{Effect, EffectId, Outcome, WorkerRef};
use super::event::Order;
use super::opcache::OpcacheSize;
use super::seen::Dependent;
use super::status::{Casualty, RolloutResult, UnitOutcome};
use super::time::{Mono, Wall};

/// One line of the journal. Entries written by an older version must stay readable: variants are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// The agent started on this boot of the host.
    Started {
        boot: String,
        version: String,
    },
    /// By the wall clock as it is now this boot was then: whatever is remembered by an older setting of it moves along.
    Clock {
        booted_at: Wall,
    },
    /// This path is watched from now on; whatever is there counts as reached, whatever comes is a deploy.
    Watching {
        path: String,
    },
    /// This state of the stamp was taken note of: as a deploy, or as the one that counts as reached.
    Stamp {
        path: String,
        identity: StampIdentity,
        deploy: Deploy,
        adopted: bool,
    },
    /// This unit has a drop-in of ours, or is kept quiet, and nobody remembers: it is to be taken back.
    LeftBehind {
        unit: String,
    },
    /// The stamp says that new code is being put on this host: until then no script starts.
    DeployBegan {
        identity: StampIdentity,
        id: String,
        since: Wall,
        until: Wall,
    },
    /// It says something else, or has said so for too long.
    BeginOver {
        why: String,
    },
    /// The target was first seen; the stamp on disk, if any, counts as reached for it.
    Adopted {
        target: String,
        id: Option<String>,
    },
    /// The target is no longer in the configuration.
    Dropped {
        target: String,
    },
    RolloutStarted {
        id: String,
        deploy: Deploy,
        targets: BTreeSet<String>,
        by: Option<String>,
        /// It was ordered over the hold that there is, which stays for everything else.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        over_hold: bool,
    },
    /// All of the target is fresh for this deploy, or allowed not to be.
    Reached {
        target: String,
        id: String,
        landed_at: Wall,
    },
    /// It was, and is not any more: what had been started for it is gone, and older code serves.
    Lapsed {
        target: String,
        unit: String,
    },
    /// This invocation of the unit was started by us for a deploy that landed then, on the clock of this boot: the wall clock may jump.
    Fresh {
        target: String,
        unit: String,
        invocation: String,
        landed: Mono,
    },
    /// We are about to restart this php-fpm: until it is proven to serve it is ours to bring up.
    Unproven {
        target: String,
        unit: String,
    },
    /// It serves: new main process, ping, and what else the rules ask. Or it is no target's any more, and nobody proves it.
    Proven {
        unit: String,
    },
    /// We are about to start this generation of php-fpm for a deploy that landed then.
    GenerationStarts {
        target: String,
        unit: String,
        landed: Mono,
    },
    /// The symlink leads to this generation: it serves.
    Switched {
        target: String,
        unit: String,
    },
    /// This generation does not do, whatever it was proven before: it is not gone back to.
    ProvenBad {
        target: String,
        unit: String,
    },
    /// This generation gets no new requests, and finishes those that it has.
    Lingers {
        target: String,
        unit: String,
        /// The one that made it an old one.
        #[serde(default)]
        rollout: Option<String>,
    },
    /// It runs no more.
    GenerationOver {
        target: String,
        unit: String,
    },
    /// These requests, or this script, are cut if the restart or stop that follows takes place; whether it did, the invocation tells.
    Cutting {
        unit: String,
        invocation: String,
        /// The end of a script before this was not ours.
        asked: Mono,
        /// So long after `asked` a script is sent SIGKILL, whatever has become of its target by then.
        #[serde(default)]
        grace: Option<Duration>,
        casualties: Vec<Casualty>,
    },
    /// The restart took place (the casualties are real), or did not.
    CutSettled {
        unit: String,
        happened: bool,
    },
    PhaseBegan {
        target: String,
        phase: String,
    },
    PhaseEnded {
        target: String,
        phase: String,
    },
    UnitEnded(UnitOutcome),
    Casualty(Casualty),
    RolloutFinished {
        result: RolloutResult,
        why: Option<String>,
    },
    Intent {
        id: EffectId,
        effect: Effect,
    },
    Outcome {
        id: EffectId,
        outcome: Outcome,
    },
    /// This stray is cut if the signal that follows reaches it.
    StrayCutting {
        process: WorkerRef,
        asked: Mono,
        /// So long after `asked` it is sent SIGKILL.
        grace: Duration,
        casualty: Box<Casualty>,
    },
    /// It has ended (the casualty is real if it was sent the signal), or was not sent it.
    StraySettled {
        process: WorkerRef,
        happened: bool,
    },
    /// A script was interrupted by us: stopped, or asked and ended at a checkpoint.
    Interrupted {
        unit: String,
        /// By then that run had ended.
        at: Mono,
    },
    /// This run of a service that we are to bring up has failed, whatever systemd calls that. Empty: an earlier one than any that is seen since.
    DidNotComeUp {
        unit: String,
        invocation: String,
    },
    /// This service is up, and systemd is at nothing with it: whatever a restart or start of ours has done to it is over.
    FoundUp {
        unit: String,
    },
    /// A script that had been interrupted ended by itself.
    RanThrough {
        unit: String,
    },
    /// We are about to stop this script, or have cut it short, and owe it a new run, later than `after`; `scheduled`: its scheduled run came while we
    /// kept it quiet, so that one is owed whatever its rules say.
    RerunOwed {
        unit: String,
        target: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        scheduled: bool,
        /// It is only to be lent what keeps its later commands from running: nothing is owed if it fails by itself.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lent: bool,
        /// Its rules give it none: it is owed one only if those by which it has ended do.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        quiet: bool,
        #[serde(default)]
        after: String,
    },
    /// The owed run waits until then, since what the last run left behind is stale only after a while.
    RerunSettles {
        unit: String,
        until: Wall,
        /// Of an owed run that does not say it itself: that of an earlier version.
        #[serde(default)]
        after: String,
    },
    /// These run, go down with the stop of this script that follows, and are owed their start.
    TakesDown {
        unit: String,
        dependents: Vec<Dependent>,
    },
    /// One of them was started again, or cannot be.
    BroughtBack {
        unit: String,
        dependent: String,
        why: String,
    },
    /// The unit need not be asked any more by the command that asked it, which may still be needed for others.
    AskOver {
        unit: String,
    },
    /// The rerun was done, or is no longer owed.
    RerunSettled {
        unit: String,
        why: String,
    },
    /// The pool is back, or was found in other hands: we owe it nothing.
    PoolSettled {
        pool: String,
        why: String,
    },
    HoldSet {
        reason: String,
        by: String,
        until: Wall,
        targets: Option<BTreeSet<String>>,
        abort: bool,
    },
    HoldEnded {
        by: String,
    },
    /// The opcache of this target has crossed a bound of its guard, which begins a rollout.
    OpcacheCrossed {
        target: String,
        why: String,
    },
    /// An opcache of this size is too small for what it is to hold; `None`: it is not any more.
    OpcacheSized {
        target: String,
        too_small: Option<OpcacheSize>,
    },
    /// An order that was accepted, for the record of who asked.
    Ordered {
        by: String,
        order: Order,
    },
    /// So many requests are in flight, since this moment or a little longer: told of a php-fpm that drains, ever more rarely.
    InFlight {
        /// Whose history it belongs to; the rollout may be over.
        rollout: Option<String>,
        target: String,
        unit: String,
        in_flight: u32,
    },
}

impl Entry {
    /// It is for a picture only: nobody minds if a crash takes it, so it may wait for company on its way to the disk.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        matches!(self, Entry::InFlight { .. })
    }

    /// What belongs to a rollout and does not say to which, belongs to this one.
    pub fn belongs_to(&mut self, id: &str) {
        let casualties = match self {
            Entry::InFlight { rollout, .. } => {
                rollout.get_or_insert_with(|| id.to_owned());
                return;
            }
            Entry::Casualty(casualty) => std::slice::from_mut(casualty),
            Entry::StrayCutting { casualty, .. } => std::slice::from_mut(&mut **casualty),
            Entry::Cutting { casualties, .. } => casualties,
            _ => return,
        };
        for casualty in casualties {
            casualty.rollout.get_or_insert_with(|| id.to_owned());
        }
    }
}

/// An entry with the time at which it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub at: Wall,
    pub entry: Entry,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::deploy::Scope;
    use super::super::effect::{Fault, JobEnd};
    use super::super::memory::{Memory, OwedRun};
    use super::super::time::Mono;
    use super::*;

    /// What cannot be read again is forgotten: a stamp would be a new deploy, a debt never paid.
    #[test]
    fn entries_are_read_as_they_were_written() {
        let deploy = Deploy {
            id: "v1".to_owned(),
            landed_at: Wall(-1),
            landed: Mono(u64::MAX),
            targets: Scope::Only(["a".to_owned()].into()),
            forced: Scope::All,
            reason: None,
        };
        let identity = StampIdentity { mtime: i64::MAX, digest: "0".to_owned() };
        let worker = WorkerRef { pid: 1, start: Mono(2), cgroup: "/a".to_owned() };
        let effects = [
            Effect::Lend { drop_ins: [("a.service".to_owned(), "[Service]\n".to_owned())].into() },
            Effect::Stop { unit: "a.service".to_owned(), within: Duration::new(1, 5) },
            Effect::Restart { unit: "a.service".to_owned(), cut: vec![worker.clone()], within: Duration::MAX },
        ];
        let outcomes =
            [Outcome::Job(JobEnd::Other("x".to_owned())), Outcome::Frozen(vec![worker]), Outcome::Fault(Fault::Refused("no".to_owned()))];
        let mut entries = vec![
            Entry::Stamp { path: "/x".to_owned(), identity, deploy: deploy.clone(), adopted: false },
            Entry::RolloutStarted { id: "r0".to_owned(), deploy, targets: ["a".to_owned()].into(), by: None, over_hold: false },
            Entry::OpcacheCrossed { target: "a".to_owned(), why: "full".to_owned() },
            Entry::OpcacheSized { target: "a".to_owned(), too_small: Some(OpcacheSize { bytes: u64::MAX, keys: 1 }) },
            Entry::Ordered { by: "uid 0".to_owned(), order: Order::Abort { reason: None } },
        ];
        entries.extend(effects.map(|effect| Entry::Intent { id: EffectId(7), effect }));
        entries.extend(outcomes.map(|outcome| Entry::Outcome { id: EffectId(7), outcome }));
        for entry in entries {
            let written = Written { at: Wall(5), entry };
            let text = serde_json::to_string(&written).unwrap();
            assert_eq!(serde_json::from_str::<Written>(&text).unwrap(), written, "{text}");
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_of_an_owed_run_is_read_and_what_it_reads_is_written() {
        let entry = |text: &str| serde_json::from_str::<Entry>(text).unwrap();
        let mut memory = Memory::default();
        for text in [
            r#"{"rerun-owed":{"unit":"a.service","target":"a"}}"#,
            r#"{"rerun-settles":{"unit":"a.service","until":"1970-01-01T00:00:05Z","after":"0a"}}"#,
        ] {
            memory.apply(&Written { at: Wall(1), entry: entry(text) });
        }
        assert_eq!(memory.reruns["a.service"].after, "0a");
        let text = serde_json::to_value(&memory.reruns["a.service"].settles).unwrap();
        assert_eq!(text, serde_json::json!({ "until": "1970-01-01T00:00:05.000000Z", "after": "0a" }));
        let earlier = r#"{"target":"a","scheduled":false,"settles":{"until":"1970-01-01T00:00:05Z","after":"0a"}}"#;
        assert_eq!(serde_json::from_str::<OwedRun>(earlier).unwrap().settles, memory.reruns["a.service"].settles);
    }
}
