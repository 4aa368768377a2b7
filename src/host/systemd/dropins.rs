//! What the agent adds to units for the time of a rollout: zz-restart-agent.conf, by a Reload taken in and by another given up (law 7).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Systemd;
use super::names::is_unit;
use crate::core::effect::Fault;

/// Its name in UNIT.d: sorted behind what people write.
pub const DROP_IN: &str = "zz-restart-agent.conf";
/// Its name until it is complete; systemd reads only `*.conf`.
const UNFINISHED: &str = "zz-restart-agent.new";
/// For a Reload: 1.0 to 1.5 s with 1,000 units on two busy cores (facts F4.4).
const RELOAD: Duration = Duration::from_secs(60);
/// Leftovers that one sweep reports at most.
const MOST_SWEPT: usize = 10_000;

impl Systemd {
    /// Writes the drop-in of each unit, and has systemd reload once. Either all files are written or none.
    ///
    /// # Errors
    /// [`Fault::Other`] if a file cannot be written, [`Fault::Unreachable`] if the Reload is not done within 60 s: then the files are there.
    pub async fn lend(&self, drop_ins: &BTreeMap<String, String>) -> Result<(), Fault> {
        if drop_ins.is_empty() {
            return Ok(());
        }
        for (unit, text) in drop_ins {
            if let Err(error) = self.write_drop_in(unit, text) {
                for unit in drop_ins.keys() {
                    let _ = self.remove_drop_in(unit);
                }
                return Err(Fault::Other(format!("cannot write the drop-in for {unit}: {error}")));
            }
        }
        self.reload().await
    }

    /// Removes the drop-in of each unit, and its directory if nothing else is in it; one Reload, also if all were gone already: systemd may
    /// still know them.
    ///
    /// # Errors
    /// [`Fault::Other`] if one cannot be removed (the others are), [`Fault::Unreachable`] if the Reload is not done within 60 s.
    pub async fn unlend(&self, units: &[String]) -> Result<(), Fault> {
        if units.is_empty() {
            return Ok(());
        }
        let mut failed = None;
        for unit in units {
            if let Err(error) = self.remove_drop_in(unit) {
                failed.get_or_insert(Fault::Other(format!("cannot remove the drop-in of {unit}: {error}")));
            }
        }
        self.reload().await?;
        failed.map_or(Ok(()), Err)
    }

    /// The units that have a drop-in of the agent, for its start: what a crash has left behind.
    ///
    /// # Errors
    /// If the directory cannot be read; one that is not there has none.
    pub fn sweep(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.places.drop_ins) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut units = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Some(unit) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".d"))
                && is_unit(unit)
                && [DROP_IN, UNFINISHED].iter().any(|file| entry.path().join(file).symlink_metadata().is_ok())
            {
                units.push(unit.to_owned());
                if units.len() >= MOST_SWEPT {
                    break;
                }
            }
        }
        units.sort();
        Ok(units)
    }

    /// Whether the unit's drop-in of the agent says this: then what systemd says of it is what it was lent.
    pub(super) fn lends(&self, unit: &str, text: &str) -> bool {
        self.directory(unit).and_then(|directory| fs::read_to_string(directory.join(DROP_IN))).is_ok_and(|there| there.contains(text))
    }

    fn directory(&self, unit: &str) -> io::Result<PathBuf> {
        if !is_unit(unit) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not the name of a unit"));
        }
        Ok(self.places.drop_ins.join(format!("{unit}.d")))
    }

    fn write_drop_in(&self, unit: &str, text: &str) -> io::Result<()> {
        let directory = self.directory(unit)?;
        fs::create_dir_all(&directory)?;
        let unfinished = directory.join(UNFINISHED);
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, directory.join(DROP_IN))
    }

    fn remove_drop_in(&self, unit: &str) -> io::Result<()> {
        let directory = self.directory(unit)?;
        for file in [DROP_IN, UNFINISHED] {
            gone(fs::remove_file(directory.join(file)))?;
        }
        remove_if_empty(&directory)
    }

    /// One daemon-reload, answered when it is done.
    async fn reload(&self) -> Result<(), Fault> {
        self.link.call("reload systemd", RELOAD, |live| async move { live.manager.reload().await }).await
    }
}

fn remove_if_empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory) => Ok(()),
        other => gone(other),
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Places;
    use super::*;
    use crate::core::time::Now;

    /// Without a bus: what is done to files needs none.
    fn systemd(directory: &Path) -> Systemd {
        let places = Places {
            bus: Some("unix:path=/nonexistent/bus".into()),
            drop_ins: directory.join("system"),
            invocations: directory.into(),
            look_only: false,
        };
        Systemd::connect(places, Now::default()).0
    }

    #[tokio::test]
    async fn a_drop_in_comes_and_goes_without_a_trace() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(directory.path());
        assert_eq!(systemd.sweep().unwrap(), Vec::<String>::new());
        systemd.write_drop_in("a.service", "[Service]\n").unwrap();
        systemd.write_drop_in("b@x.service", "[Service]\n").unwrap();
        fs::write(directory.path().join("system/b@x.service.d/local.conf"), "").unwrap();
        assert_eq!(systemd.sweep().unwrap(), ["a.service", "b@x.service"]);
        for unit in ["a.service", "a.service", "b@x.service", "never.service"] {
            systemd.remove_drop_in(unit).unwrap();
        }
        assert_eq!(systemd.sweep().unwrap(), Vec::<String>::new());
        assert!(!directory.path().join("system/a.service.d").exists());
        assert!(directory.path().join("system/b@x.service.d/local.conf").exists());
    }

    #[tokio::test]
    async fn no_name_leads_out_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(directory.path());
        for bad in ["../x.service", "a/b.service", "", "x.conf"] {
            assert!(systemd.write_drop_in(bad, "").is_err(), "{bad}");
            assert!(systemd.remove_drop_in(bad).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn one_that_cannot_be_written_takes_back_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(directory.path());
        let drop_ins = BTreeMap::from([("a.service".to_owned(), String::new()), ("x/y.service".to_owned(), String::new())]);
        assert!(matches!(systemd.lend(&drop_ins).await, Err(Fault::Other(_))));
        assert_eq!(systemd.sweep().unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn without_a_bus_everything_ends_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let systemd = systemd(directory.path());
        assert!(!systemd.is_connected());
        assert!(matches!(systemd.connected(Duration::from_millis(20)).await, Err(Fault::Unreachable(_))));
        assert!(matches!(systemd.run("x", &["/bin/true".to_owned()], Duration::from_millis(20)).await, Err(Fault::Unreachable(_))));
    }
}
