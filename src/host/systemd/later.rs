//! A unit that is to be stopped when this agent is no more.

use std::time::Duration;

use tokio::time::Instant;
use zbus::Variant;

use super::faults::is_named;
use super::hooks::micros;
use super::link::CallError;
use super::{ACT, Systemd};
use crate::core::effect::Fault;

const SYSTEMCTL: &str = "/usr/bin/systemctl";
const SLEEP: &str = "/bin/sleep";

impl Systemd {
    /// Leaves a transient unit that sleeps for so long and then stops this one; with `quit` it sends SIGQUIT to its main process first. One that is there
    /// already stays.
    ///
    /// # Errors
    /// The fault of starting it.
    pub async fn end_later(&self, unit: &str, after: Duration, quit: bool) -> Result<(), Fault> {
        let name = format!("restart-agent-later-{unit}");
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        let seconds = after.as_secs().max(1).to_string();
        let mut commands = Vec::new();
        if quit {
            commands.push((SYSTEMCTL.to_owned(), words(&[SYSTEMCTL, "kill", "--kill-whom=main", "--signal=SIGQUIT", unit]), false));
        }
        commands.push((SLEEP.to_owned(), words(&[SLEEP, &seconds]), false));
        commands.push((SYSTEMCTL.to_owned(), words(&[SYSTEMCTL, "stop", unit]), false));
        let properties: &[(&str, &Variant<'_>)] = &[
            ("Description", &Variant::from(format!("restart-agent: stops {unit} when it has lingered"))),
            ("Type", &Variant::from("oneshot")),
            ("ExecStart", &Variant::from(commands)),
            ("TimeoutStartUSec", &Variant::from(micros(after.saturating_add(Duration::from_secs(600))))),
            ("CollectMode", &Variant::from("inactive-or-failed")),
        ];
        let what = format!("leave {unit} to systemd");
        let name = name.as_str();
        let asked = self
            .link
            .once(&what, Instant::now() + ACT, |live| async move { live.manager.start_transient_unit(name, "fail", properties, &[]).await })
            .await;
        match asked {
            Ok(_) => Ok(()),
            Err(CallError::Answer(error)) if is_named(&error, "UnitExists") => Ok(()),
            Err(error) => Err(error.into_fault(&what)),
        }
    }
}
