//! Which files make up the configuration: systemd's rules for drop-ins.
//!
//! Not liboverdrop: it passes over symlinks and over directories that it cannot read without a word, so a file that
//! somebody linked into place would be a rule that silently does not hold (docs/decisions/0001).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::MAX_FILES;
use super::problem::Report;

/// The directories that configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Holds `config.toml` and `conf.d`; its drop-ins win over those of the same name elsewhere.
    pub etc: PathBuf,
    /// Holds `conf.d`.
    pub run: PathBuf,
    /// Holds `conf.d`, for packages; every other directory masks it.
    pub usr_lib: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Roots { etc: "/etc/restart-agent".into(), run: "/run/restart-agent".into(), usr_lib: "/usr/lib/restart-agent".into() }
    }
}

/// `config.toml`, then the drop-ins `conf.d/*.toml` in the order of their names, whatever directory they are in. Of equal
/// names only the strongest directory's is taken; one that leads to /dev/null takes the name out.
///
/// A broken symlink or a directory with such a name is listed too: reading it then is an error, where passing over it
/// would drop a rule in silence.
pub(super) fn scan(roots: &Roots, report: &mut Report) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let main = roots.etc.join("config.toml");
    if fs::symlink_metadata(&main).is_ok() && !is_masked(&main) {
        files.push(main);
    }
    let mut dropins: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for root in [&roots.usr_lib, &roots.run, &roots.etc] {
        let directory = root.join("conf.d");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                report.file(&directory, format!("cannot list this directory: {error}"));
                continue;
            }
        };
        for entry in entries {
            match entry {
                Ok(entry) if is_dropin(&entry.file_name()) => {
                    dropins.insert(entry.file_name(), entry.path());
                }
                Ok(_) => {}
                Err(error) => report.file(&directory, format!("cannot list this directory: {error}")),
            }
        }
    }
    files.extend(dropins.into_values().filter(|path| !is_masked(path)));
    if files.len() > MAX_FILES {
        report.file(&roots.etc, format!("the configuration has {} files, and the limit is {MAX_FILES}: merge some of them", files.len()));
        files.truncate(MAX_FILES);
    }
    files
}

fn is_dropin(name: &OsString) -> bool {
    !name.as_encoded_bytes().starts_with(b".") && Path::new(name).extension().is_some_and(|extension| extension == "toml")
}

fn is_masked(path: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|real| real == Path::new("/dev/null"))
}
