//! A ledger of runs: every start and end of every stand-in script, as the script itself and systemd tell it, not the agent.
//!
//! A script writes what it does; `ExecStopPost=` writes how systemd saw it end. From both follows whether a run ended by itself or was cut.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::jobs::{self, Job, Shape, script};
use crate::{Host, jobs::Marks};

const LEDGER: &str = "/var/tmp/ledger";
const SCRIPT: &str = "/srv/ledger/script";
/// A lock that is younger than this, in seconds, is somebody's: see [`Play::LeavesLock`].
pub const LOCK_IS_STALE_AFTER: f64 = 3.0;

/// What a stand-in script does for so many seconds, and what SIGTERM does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Play {
    /// Dies of SIGTERM.
    Dies,
    TrapsAndExits0,
    TrapsAndExits143,
    Ignores,
    /// bash, which runs sh, which runs php.
    Wrapper,
    /// A fresh php for each second.
    LoopOfPhp,
    /// Dies of SIGTERM; its child takes note of it and goes on.
    ChildIgnores,
    /// Looks every half second whether it is asked to stop; then it exits with 75.
    Resumable,
    /// Fails at once when its lock is there and is not stale; dies of SIGTERM, and then its lock stays.
    LeavesLock,
    /// Dies of SIGTERM; at its end it fails by itself.
    Fails,
    /// Takes note of each SIGTERM, SIGHUP and SIGINT, as its child does, and goes on until `/var/tmp/marks/NAME.finish` appears.
    Uncooperative,
}

/// The one program: `script UNIT PLAY SECONDS`, or `script UNIT stopped` after the end.
const PROGRAM: &str = r#"unit=$1 seconds=$3 child=
say() { printf '%s %s %s %s\n' "$EPOCHREALTIME" "$unit" "$INVOCATION_ID" "$*" >> /var/tmp/ledger; }
finish() { say end "$1"; exit "$1"; }
# A trap of bash is run at once while it waits for a child in the background.
rest() { sleep "$seconds" & wait $!; }
if [ "$2" = stopped ]; then
    say stopped "$SERVICE_RESULT" "$EXIT_CODE" "$EXIT_STATUS"
    exit 0
fi
say start
case $2 in
Dies) sleep "$seconds" ;;
TrapsAndExits0) trap 'say term; exit 0' TERM; rest ;;
TrapsAndExits143) trap 'say term; exit 143' TERM; rest ;;
Ignores) trap '' TERM; sleep "$seconds" ;;
Wrapper) sh -c "php -n -r 'usleep($seconds * 1000000);'; true" ;;
LoopOfPhp) for ((wiki = 0; wiki < seconds; wiki++)); do php -n -r 'usleep(950000);'; done ;;
ChildIgnores)
    (trap 'say child-term' TERM; end=$((SECONDS + seconds)); while ((SECONDS < end)); do sleep 5 & wait $!; done) &
    wait $! ;;
Resumable)
    for ((chunk = 0; chunk < 2 * seconds; chunk++)); do
        sleep 0.5
        if [ -e "/run/restart-agent/stop/$unit.service" ]; then say checkpoint; exit 75; fi
    done ;;
LeavesLock)
    lock=/var/tmp/marks/$unit.lock
    if [ -e "$lock" ] && (($(date +%s%3N) - $(date -r "$lock" +%s%3N) < STALE)); then say locked; finish 1; fi
    (while :; do touch "$lock"; sleep 1; done) &
    child=$!
    sleep "$seconds"
    kill $child; rm "$lock" ;;
Fails) sleep "$seconds"; finish 1 ;;
Uncooperative)
    note() { for signal in TERM HUP INT; do trap "say signal $1 $signal" $signal; done; }
    work() { until [ -e "/var/tmp/marks/$unit.finish" ]; do sleep 0.2 & wait $!; done; }
    (note child; work) &
    child=$!
    note main
    work
    # What is left of a unit when its main process ends, systemd ends.
    wait $child ;;
esac
finish 0
"#;

/// A script that keeps the ledger. Its unit is `NAME.service`.
#[must_use]
pub fn stand_in(name: &str, play: Play, seconds: u32) -> Job {
    let run = format!("ExecStart=\nExecStart=/bin/bash {SCRIPT} %N {play:?} {seconds}");
    script(name, Shape::Plain).service(&run).service(&format!("ExecStopPost=/bin/bash {SCRIPT} %N stopped"))
}

/// [`jobs::install`] for stand-ins: with their program and an empty ledger.
///
/// # Errors
/// As there.
pub fn install(host: &Host, jobs: &[Job]) -> Result<()> {
    let stale = format!("{:.0}", LOCK_IS_STALE_AFTER * 1000.0);
    host.sh_ok(&format!("mkdir -p /srv/ledger && touch {LEDGER} && chmod 666 {LEDGER}"))?;
    host.write(SCRIPT, PROGRAM.replace("STALE", &stale))?;
    jobs::install(host, jobs)
}

/// One run of a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub invocation: String,
    /// Seconds since 1970.
    pub start: f64,
    /// When systemd called it deactivated; from the ledger alone, when `ExecStopPost=` ran.
    pub stopped: Option<f64>,
    /// What else was written: `end 0`, `checkpoint`, `term`, `stopped RESULT CODE STATUS`.
    pub words: Vec<(f64, String)>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Runs,
    /// With this exit status.
    ByItself(i32),
    /// It was asked, and came to a checkpoint.
    AtCheckpoint,
    /// A signal ended it before it had finished.
    Cut,
    /// It came to its end while it was being stopped: whether a signal had anything to do with that nobody can say.
    Tie,
}

impl Run {
    #[must_use]
    pub fn how(&self) -> How {
        let said = |word: &str| self.words.iter().find(|(_, words)| words.split(' ').next() == Some(word)).map(|(_, words)| words.as_str());
        let Some(stopped) = said("stopped") else { return How::Runs };
        let signalled = [" killed ", " dumped ", "being stopped"].iter().any(|word| stopped.contains(word)) || said("term").is_some();
        match said("end") {
            Some(_) if signalled => How::Tie,
            Some(end) => How::ByItself(end.trim_start_matches("end ").parse().unwrap_or(-1)),
            None if said("checkpoint").is_some() => How::AtCheckpoint,
            None => How::Cut,
        }
    }

    /// Whether a line that begins like this was written.
    #[must_use]
    pub fn said(&self, words: &str) -> bool {
        self.words.iter().any(|(_, line)| line.starts_with(words))
    }
}

/// All runs of all units, by unit without `.service`, in the order of their starts.
#[derive(Debug, Clone, Default)]
pub struct Ledger(BTreeMap<String, Vec<Run>>);

impl Ledger {
    /// As it is now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(host: &Host) -> Result<Ledger> {
        Ledger::parse(&host.read(LEDGER)?)
    }

    /// The same, with what systemd's journal says of each end: whether the run was being stopped then, and that it ended at all where
    /// `ExecStopPost=` could not write it, since it was killed with the rest (systemd 257).
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub fn read_whole(host: &Host) -> Result<Ledger> {
        host.ok(&["journalctl", "--sync"])?;
        let lines = host.sh_ok(
            "journalctl --boot --output=json --output-fields=INVOCATION_ID,MESSAGE _PID=1 |
                grep -E 'Deactivated successfully|Failed with result|\"Stopped ' || true",
        )?;
        let mut ledger = Ledger::read(host)?;
        let mut runs: BTreeMap<String, &mut Run> = ledger.0.values_mut().flatten().map(|run| (run.invocation.clone(), run)).collect();
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let text = |name: &str| line[name].as_str().unwrap_or_default();
            let Some(run) = runs.get_mut(text("INVOCATION_ID")) else { continue };
            let at = text("__REALTIME_TIMESTAMP").parse::<f64>()? / 1e6;
            if run.stopped.is_none() {
                let result = text("MESSAGE").split('\'').nth(1).unwrap_or("success");
                run.words.push((at, format!("stopped {result}, as the journal says")));
            }
            // A busy systemd sees the end of ExecStopPost= later than that.
            run.stopped = Some(run.stopped.unwrap_or(at).max(at));
            // A oneshot that ends by itself is "Finished", or "Failed to start".
            if let Some((_, words)) = run.words.iter_mut().rfind(|(_, words)| words.starts_with("stopped"))
                && text("MESSAGE").starts_with("Stopped ")
            {
                words.push_str(", being stopped");
            }
        }
        Ok(ledger)
    }

    /// From its lines.
    ///
    /// # Errors
    /// A line is not as the program writes it.
    pub fn parse(text: &str) -> Result<Ledger> {
        let mut ledger = Ledger::default();
        for line in text.lines() {
            let [at, unit, invocation, words] =
                line.splitn(4, ' ').collect::<Vec<_>>().try_into().ok().with_context(|| format!("in the ledger: {line}"))?;
            let at: f64 = at.parse().with_context(|| line.to_owned())?;
            let runs = ledger.0.entry(unit.to_owned()).or_default();
            let n = match runs.iter().position(|run| run.invocation == invocation) {
                Some(n) => n,
                None => {
                    runs.push(Run { invocation: invocation.to_owned(), start: at, stopped: None, words: Vec::new() });
                    runs.len() - 1
                }
            };
            if words.starts_with("stopped") {
                runs[n].stopped = Some(at);
            }
            runs[n].words.push((at, words.to_owned()));
        }
        Ok(ledger)
    }

    /// Of one unit.
    #[must_use]
    pub fn runs(&self, name: &str) -> &[Run] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

/// How often OnFailure= and OnSuccess= of a unit were started.
#[must_use]
pub fn fired(marks: &Marks, name: &str) -> (usize, usize) {
    (marks.count(name, "failure"), marks.count(name, "success"))
}
