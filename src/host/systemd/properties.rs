//! Properties of units: what is read of them, and what is remembered so that it need not be read again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use zbus::{OwnedVariant, Variant};

use super::link::{CallError, Live};
use super::names::unit_path;
use super::proxies::{MANAGER, MANAGER_PATH};
use super::{READ, Systemd};
use crate::core::effect::Fault;
use crate::core::seen::Dependent;
use crate::core::time::{Mono, Span};
use crate::core::{EXEC_RESET, RESTART_DROP_IN};

pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
pub(super) const SERVICE: &str = "org.freedesktop.systemd1.Service";
pub(super) const SCOPE: &str = "org.freedesktop.systemd1.Scope";
pub(super) const TIMER: &str = "org.freedesktop.systemd1.Timer";

/// What says whether a stop may leave processes of a service behind.
pub(super) const KILLING: [(&str, &str); 2] = [(SERVICE, "KillMode"), (SERVICE, "SendSIGKILL")];

/// Units that are remembered at once; beyond it all are forgotten, which costs time and nothing else.
const MOST_REMEMBERED: usize = 8192;

/// What a unit's files say: the same until systemd loads them again.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub oneshot: bool,
    pub exec_starts: u32,
    pub refuse_manual_start: bool,
    pub refuse_manual_stop: bool,
    pub transient: bool,
    pub leaves_processes: bool,
    pub on_success: bool,
    pub on_failure: bool,
    pub start_limit_burst: u32,
    pub start_limit_interval_ms: u64,
    /// It may send systemd a StatusText or another MainPID.
    pub notifies: bool,
    /// systemd finds its main process by a file or by guessing.
    pub forks: bool,
    pub dependents: Vec<Dependent>,
}

/// The run that a unit was last seen in.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub invocation: String,
    pub cgroup: String,
    pub main_pid: u32,
    pub main_start: Mono,
    /// When the run before it ended.
    pub last_end: Mono,
    /// The main process's own start time, which tells it from another that was given its number.
    pub process_start: Mono,
}

#[derive(Debug, Clone)]
pub(super) struct Remembered {
    pub settings: Settings,
    pub run: Option<Run>,
    /// `TriggeredBy=`, as far as timers go, if it was asked for.
    pub timers: Option<Vec<String>>,
}

/// What a look that wants no more needs to know: whether systemd lets the unit be restarted, and where its processes are.
#[derive(Debug, Clone)]
pub(super) struct Bare {
    pub refuse_manual_start: bool,
    pub refuse_manual_stop: bool,
    pub transient: bool,
    pub leaves_processes: bool,
    pub cgroup: String,
}

/// What is known of units since systemd last loaded their files.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// `UnitsLoadTimestampMonotonic` of systemd's Manager: a daemon-reload changes it.
    loaded_at: u64,
    bare: BTreeMap<String, Bare>,
    units: BTreeMap<String, Remembered>,
    /// The timers that were loaded when [`Remembered::timers`] were asked for: one more or less can change them without a daemon-reload.
    timers: BTreeSet<String>,
}

impl Memory {
    pub(super) fn is_of(&mut self, loaded_at: u64) {
        if loaded_at == 0 || self.loaded_at != loaded_at || self.units.len() > MOST_REMEMBERED {
            self.units.clear();
            self.bare.clear();
            self.loaded_at = loaded_at;
        }
    }

    pub(super) fn recall_bare(&self, unit: &str) -> Option<Bare> {
        self.bare.get(unit).cloned()
    }

    pub(super) fn remember_bare(&mut self, unit: &str, loaded_at: u64, what: Bare) {
        if self.loaded_at == loaded_at && self.bare.len() < MOST_REMEMBERED {
            self.bare.insert(unit.to_owned(), what);
        }
    }

    pub(super) fn recall(&self, unit: &str) -> Option<Remembered> {
        self.units.get(unit).cloned()
    }

    pub(super) fn remember(&mut self, unit: &str, loaded_at: u64, settings: Settings, run: Option<Run>) {
        if self.loaded_at == loaded_at {
            let timers = self.units.remove(unit).and_then(|known| known.timers);
            self.units.insert(unit.to_owned(), Remembered { settings, run, timers });
        }
    }

    /// These timers are loaded now.
    pub(super) fn timers_are(&mut self, timers: BTreeSet<String>) {
        if self.timers != timers {
            self.timers = timers;
            for unit in self.units.values_mut() {
                unit.timers = None;
            }
        }
    }

    pub(super) fn remember_timers(&mut self, unit: &str, loaded_at: u64, timers: &[String]) {
        if self.loaded_at == loaded_at
            && let Some(unit) = self.units.get_mut(unit)
        {
            unit.timers = Some(timers.to_vec());
        }
    }

    /// A unit that does not run may be unloaded, and then be loaded from changed files without a daemon-reload.
    pub(super) fn forget(&mut self, unit: &str) {
        self.units.remove(unit);
    }
}

/// The answers to one [`Systemd::properties`], in the order asked for. A property that this systemd does not have reads as its zero.
#[derive(Debug)]
pub(super) struct Values(Vec<Option<OwnedVariant>>);

impl Values {
    fn get(&self, at: usize) -> Option<&Variant<'static>> {
        self.0.get(at)?.as_deref()
    }

    pub(super) fn text(&self, at: usize) -> &str {
        match self.get(at) {
            Some(Variant::Str(text)) => text.as_str(),
            _ => "",
        }
    }

    pub(super) fn flag(&self, at: usize) -> bool {
        matches!(self.get(at), Some(Variant::Bool(true)))
    }

    pub(super) fn number(&self, at: usize) -> u64 {
        match self.get(at) {
            Some(Variant::U64(number)) => *number,
            Some(Variant::U32(number)) => u64::from(*number),
            Some(Variant::I32(number)) => u64::try_from(*number).unwrap_or(0),
            _ => 0,
        }
    }

    pub(super) fn small(&self, at: usize) -> u32 {
        u32::try_from(self.number(at)).unwrap_or(u32::MAX)
    }

    pub(super) fn length(&self, at: usize) -> usize {
        match self.get(at) {
            Some(Variant::Array(array)) => array.len(),
            _ => 0,
        }
    }

    pub(super) fn texts(&self, at: usize) -> Vec<String> {
        match self.get(at) {
            Some(Variant::Array(array)) => {
                array.iter().filter_map(|item| if let Variant::Str(text) = item { Some(text.to_string()) } else { None }).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What [`KILLING`] says, from `at` on.
    pub(super) fn leaves_processes(&self, at: usize) -> bool {
        matches!(self.text(at), "process" | "none") || matches!(self.get(at + 1), Some(Variant::Bool(false)))
    }

    /// The command lines of an `Exec…=` property.
    pub(super) fn commands(&self, at: usize) -> Vec<Vec<String>> {
        match self.get(at) {
            Some(Variant::Array(array)) => array.iter().filter_map(super::command_line::argv).collect(),
            _ => Vec::new(),
        }
    }

    /// The lines of a `TimersCalendar` or `TimersMonotonic` property, as they stand in a timer's file.
    pub(super) fn schedule(&self, at: usize) -> Vec<String> {
        let line = |item: &Variant<'_>| {
            let Variant::Structure(fields) = item else { return None };
            match fields.fields() {
                [Variant::Str(key), Variant::Str(spec), _] => Some(format!("{key}={spec}")),
                [Variant::Str(key), Variant::U64(span), _] => {
                    Some(format!("{}Sec={}", key.trim_end_matches("USec"), Span(Duration::from_micros(*span))))
                }
                _ => None,
            }
        };
        match self.get(at) {
            Some(Variant::Array(array)) => array.iter().filter_map(line).collect(),
            _ => Vec::new(),
        }
    }

    /// Bytes as hex: how an InvocationID is written.
    pub(super) fn hex(&self, at: usize) -> String {
        match self.get(at) {
            Some(Variant::Array(array)) => {
                array.iter().filter_map(|item| if let Variant::U8(byte) = item { Some(format!("{byte:02x}")) } else { None }).collect()
            }
            _ => String::new(),
        }
    }
}

impl Systemd {
    /// Reads properties of one unit, all asked for at once: one costs systemd a tenth of a millisecond, all of them many (facts F4.4).
    ///
    /// # Errors
    /// [`Fault::NoSuchUnit`] if it is gone; [`Fault::Unreachable`].
    pub(super) async fn properties(&self, unit: &str, wanted: &[(&str, &str)]) -> Result<Values, Fault> {
        let path = unit_path(unit);
        let path = path.as_str();
        let what = format!("look at {unit}");
        let calls = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        self.link
            .answers(calls, &what, READ, |live: Live| async move {
                let answers = join_all(wanted.iter().map(|(interface, property)| live.property(path, interface, property))).await;
                let mut values = Vec::with_capacity(answers.len());
                for answer in answers {
                    values.push(match answer {
                        Ok(value) => Some(value),
                        Err(error) if is_unknown_property(&error) => None,
                        Err(error) => return Err(error),
                    });
                }
                Ok(Values(values))
            })
            .await
            .map_err(|error| error.into_fault(&what))
    }

    /// What a unit's files say.
    pub(super) async fn settings(&self, unit: &str) -> Result<Settings, Fault> {
        let mut wanted = vec![
            (UNIT, "RefuseManualStart"),
            (UNIT, "RefuseManualStop"),
            (UNIT, "Transient"),
            (UNIT, "OnSuccess"),
            (UNIT, "OnFailure"),
            (UNIT, "StartLimitBurst"),
            (UNIT, "StartLimitIntervalUSec"),
        ];
        if unit.ends_with(".service") {
            wanted.extend([(SERVICE, "Type"), (SERVICE, "ExecStart"), (SERVICE, "NotifyAccess")]);
            wanted.extend(KILLING);
        }
        let values = self.properties(unit, &wanted).await?;
        let dependents = self.dependents(unit).await?;
        let hidden = if self.lends(unit, EXEC_RESET) { 2 } else { 0 };
        Ok(Settings {
            dependents,
            refuse_manual_start: values.flag(0),
            refuse_manual_stop: values.flag(1),
            transient: values.flag(2),
            leaves_processes: values.leaves_processes(10) || self.lends(unit, RESTART_DROP_IN),
            on_success: values.length(3) > 0,
            on_failure: values.length(4) > 0,
            start_limit_burst: values.small(5),
            start_limit_interval_ms: values.number(6) / 1000,
            oneshot: values.text(7) == "oneshot",
            forks: values.text(7) == "forking",
            exec_starts: u32::try_from(values.length(8)).unwrap_or(u32::MAX).max(hidden),
            notifies: values.text(9) != "none",
        })
    }

    /// When systemd last loaded the files of units.
    pub(super) async fn loaded_at(&self) -> Result<u64, Fault> {
        let answer = self
            .link
            .answer("look at systemd", READ, |live: Live| async move {
                live.property(MANAGER_PATH, MANAGER, "UnitsLoadTimestampMonotonic").await
            })
            .await;
        match answer {
            Ok(value) => Ok(Values(vec![Some(value)]).number(0)),
            // Without it nothing is remembered from one look to the next.
            Err(CallError::Answer(error)) if is_unknown_property(&error) => Ok(0),
            Err(error) => Err(error.into_fault("look at systemd")),
        }
    }
}

fn is_unknown_property(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::FDO(error) if matches!(**error, zbus::fdo::Error::UnknownProperty(_) | zbus::fdo::Error::UnknownInterface(_)))
}
