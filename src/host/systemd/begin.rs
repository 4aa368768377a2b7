//! The unit behind which the starts of scripts wait while a deploy is under way.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use zbus::Variant;

use super::acts::REPLACE;
use super::faults::is_named;
use super::hooks::micros;
use super::link::{CallError, Live};
use super::look::boot_clock;
use super::names::pattern;
use super::properties::{SERVICE, UNIT as UNIT_INTERFACE};
use super::proxies::UnitRow;
use super::{ACT, Systemd};
use crate::core::effect::{Fault, Looked, UnitsOf};
use crate::core::is_of;
use crate::core::time::Mono;

const UNIT: &str = "restart-agent-begin.service";
/// What it does. Longer than it should last it cannot.
const SLEEP: &str = "/bin/sleep";
const SIGTERM: i32 = 15;
/// What ends this much before it should is the same: a wait that was asked for again, a little later.
const EARLY: Duration = Duration::from_secs(3);

impl Systemd {
    /// Starts a unit that is ordered before all loaded services that match, and that has not started as long as it lives: a oneshot has a start
    /// job for all its life (facts, section 1), so their start jobs wait behind it, whoever queues them. It ends by itself. One that is there
    /// already stays if it lasts as long, within [`EARLY`]; else it is of a deploy that is over, and is replaced.
    /// `now` and `offset` are as for [`Systemd::look`].
    ///
    /// # Errors
    /// The fault of listing them, of starting it, or of stopping the one before; [`Fault::Unreachable`] while that is not gone.
    pub async fn hold_starts(&self, waits: &[UnitsOf], lasts: Duration, now: Mono, offset: u64) -> Result<(), Fault> {
        let globs: Vec<String> =
            waits.iter().flat_map(|waits| &waits.units).map(|unit| pattern(unit).unwrap_or_else(|| unit.clone())).collect();
        let rows = self.matching(&globs, Looked::Exactly).await?;
        let ours = |unit: &String| waits.iter().any(|waits| is_of(&waits.units, &waits.exclude, unit));
        let before: BTreeSet<String> = rows.into_iter().map(|row| row.0).filter(|unit| unit.ends_with(".service") && ours(unit)).collect();
        if before.is_empty() {
            return Ok(());
        }
        let before: Vec<String> = before.into_iter().collect();
        let argv = vec![SLEEP.to_owned(), format!("{:.3}", lasts.as_secs_f64())];
        let properties: &[(&str, &Variant<'_>)] = &[
            ("Description", &Variant::from("restart-agent: a deploy has begun, scripts wait")),
            ("Type", &Variant::from("oneshot")),
            ("ExecStart", &Variant::from(vec![(SLEEP.to_owned(), argv, false)])),
            ("Before", &Variant::from(before)),
            ("TimeoutStartUSec", &Variant::from(micros(lasts.saturating_add(ACT)))),
            ("SuccessExitStatus", &Variant::from((Vec::<i32>::new(), vec![SIGTERM]))),
            ("CollectMode", &Variant::from("inactive-or-failed")),
        ];
        let what = "hold back the starts of scripts";
        let transient = |live: Live| async move { live.manager.start_transient_unit(UNIT, "fail", properties, &[]).await };
        let start = || self.link.once(what, Instant::now() + ACT, transient);
        let mut asked = start().await;
        if matches!(&asked, Err(CallError::Answer(error)) if is_named(error, "UnitExists")) {
            if self.holds(what, now.after(lasts), offset).await? {
                return Ok(());
            }
            self.stop_service(UNIT, ACT, None).await?;
            asked = start().await;
        }
        asked.map(drop).map_err(|error| error.into_fault(what))
    }

    /// Whether the one that is there lasts until then. If it has ended it holds nothing back any more: systemd is about to forget it.
    async fn holds(&self, what: &str, until: Mono, offset: u64) -> Result<bool, Fault> {
        let rows = self.named(&[UNIT]).await?;
        let ends = |row: &UnitRow| matches!(row.3.as_str(), "inactive" | "failed" | "deactivating");
        if rows.iter().any(|(_, row)| ends(row)) {
            return Err(Fault::Unreachable(format!("{what}: the {UNIT} of the deploy before is still there")));
        }
        let values = self.properties(UNIT, &[(UNIT_INTERFACE, "InactiveExitTimestampMonotonic"), (SERVICE, "TimeoutStartUSec")]).await?;
        let sleeps = Duration::from_micros(values.number(1)).saturating_sub(ACT);
        Ok(boot_clock(values.number(0), offset).after(sleeps + EARLY) >= until)
    }

    /// Ends it: whatever waits may start.
    ///
    /// # Errors
    /// The fault of StopUnit; that there is none is no error.
    pub async fn release_starts(&self) -> Result<(), Fault> {
        let what = "let go the starts of scripts";
        match self.link.call(what, ACT, |live| async move { live.manager.stop_unit(UNIT, REPLACE).await }).await {
            Ok(_) | Err(Fault::NoSuchUnit(_)) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}
