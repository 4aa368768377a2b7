//! Everything that a unit's files say, for who looks for traps in them: many questions for each unit, so not for a rollout.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::look::{active, load};
use super::names::pattern;
use super::properties::{SERVICE, UNIT};
use super::proxies::UnitRow;
use super::{AT_ONCE, Systemd};
use crate::core::doctor::seen::UnitSettings;
use crate::core::effect::{Fault, Looked};

impl Systemd {
    /// The settings of units, by name or glob: of globs those that are loaded; a name that there is none of gets an entry that says so. Their
    /// files are named and not read.
    ///
    /// # Errors
    /// [`Fault::Unreachable`].
    pub async fn settings_in_full(&self, units: &[String]) -> Result<Vec<UnitSettings>, Fault> {
        let globs: Vec<String> = units.iter().filter_map(|unit| pattern(unit)).collect();
        let names: Vec<&str> = units.iter().map(String::as_str).filter(|unit| pattern(unit).is_none()).collect();
        let (matching, named) = tokio::try_join!(self.matching(&globs, Looked::Exactly), self.named(&names))?;
        let mut rows: Vec<(String, UnitRow)> = matching.into_iter().map(|row| (row.0.clone(), row)).collect();
        rows.extend(named);
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows.dedup_by(|a, b| a.0 == b.0);
        stream::iter(rows)
            .map(|(name, row)| self.in_full(name, row))
            .buffered(AT_ONCE)
            .try_filter_map(|unit| async move { Ok(unit) })
            .try_collect()
            .await
    }

    async fn in_full(&self, unit: String, row: UnitRow) -> Result<Option<UnitSettings>, Fault> {
        let state = UnitSettings { unit, load: load(&row.2), active: active(&row.3), send_sigkill: true, ..UnitSettings::default() };
        if row.2 == "not-found" {
            return Ok(Some(state));
        }
        let wanted = [
            (UNIT, "FragmentPath"),
            (UNIT, "DropInPaths"),
            (UNIT, "Transient"),
            (UNIT, "RefuseManualStart"),
            (UNIT, "RefuseManualStop"),
            (UNIT, "OnSuccess"),
            (UNIT, "OnFailure"),
            (UNIT, "StartLimitBurst"),
            (UNIT, "StartLimitIntervalUSec"),
            (SERVICE, "Type"),
            (SERVICE, "KillMode"),
            (SERVICE, "SendSIGKILL"),
            (SERVICE, "FinalKillSignal"),
            (SERVICE, "TimeoutStopUSec"),
            (SERVICE, "ExecStart"),
            (SERVICE, "ExecStop"),
            (SERVICE, "ExecReload"),
            (SERVICE, "Environment"),
            (SERVICE, "KillSignal"),
        ];
        let wanted = if state.unit.ends_with(".service") { &wanted[..] } else { &wanted[..9] };
        let values = match self.properties(&row.0, wanted).await {
            Ok(values) => values,
            Err(Fault::NoSuchUnit(_)) => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let fragment = Some(values.text(0).to_owned()).filter(|path| !path.is_empty());
        Ok(Some(UnitSettings {
            files: fragment.into_iter().chain(values.texts(1)).map(|path| (path, String::new())).collect(),
            transient: values.flag(2),
            refuse_manual_start: values.flag(3),
            refuse_manual_stop: values.flag(4),
            on_success: values.texts(5),
            on_failure: values.texts(6),
            start_limit_burst: values.small(7),
            start_limit_interval: Duration::from_micros(values.number(8)),
            kind: values.text(9).to_owned(),
            kill_mode: values.text(10).to_owned(),
            send_sigkill: wanted.len() == 9 || values.flag(11),
            final_kill_signal: values.small(12),
            timeout_stop: Some(values.number(13)).filter(|micros| *micros != u64::MAX).map(Duration::from_micros),
            exec_start: values.commands(14),
            exec_stop: values.commands(15),
            exec_reload: values.commands(16),
            environment: values.texts(17),
            kill_signal: values.small(18),
            ..state
        }))
    }
}
