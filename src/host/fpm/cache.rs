//! Layouts by unit, each good until a file that it was read from changes: `php-fpm -tt` is run once for each change (facts M11).

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::core::seen::FpmLayout;

use super::invocation::config_file;
use super::layout;

/// php-fpm itself goes no deeper.
const INCLUDE_DEPTH: u32 = 5;
/// More files than this, or longer ones, are not cached but asked for each time.
const FILES_MAX: usize = 1000;
const FILE_MAX: u64 = 1 << 20;
/// File times come from a coarse clock that is up to 10 ms behind the one that `started` is read from.
const COARSE: Duration = Duration::from_millis(100);

/// What php-fpm said about the configuration of each unit.
#[derive(Debug, Default)]
pub struct LayoutCache {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    invocation: Vec<String>,
    files: Files,
    layout: FpmLayout,
}

impl LayoutCache {
    /// The layout of `unit`, if nothing that it depends on has changed. `exec_start` is the unit's own command line, `environment` its
    /// `Environment=`.
    #[must_use]
    pub fn get(&self, unit: &str, exec_start: &[String], environment: &[String]) -> Option<FpmLayout> {
        let entry = self.entries.get(unit).filter(|entry| entry.invocation == invocation(exec_start, environment))?;
        (Files::of(exec_start)? == entry.files).then(|| entry.layout.clone())
    }

    /// Takes the output of the command of [`super::invocation::inspect`], which was started at `started`. A configuration that was
    /// changed since then, or that cannot be followed (no `-y`, relative includes), is not kept.
    ///
    /// # Errors
    /// Those of [`layout::parse`]; what was known of the unit is forgotten.
    pub fn put(
        &mut self,
        unit: &str,
        exec_start: &[String],
        environment: &[String],
        started: SystemTime,
        output: &str,
    ) -> Result<FpmLayout, String> {
        self.entries.remove(unit);
        let layout = layout::parse(output)?;
        if let Some(files) = Files::of(exec_start).filter(|files| files.older_than(started)) {
            self.entries.insert(unit.to_owned(), Entry { invocation: invocation(exec_start, environment), files, layout: layout.clone() });
        }
        Ok(layout)
    }
}

fn invocation(exec_start: &[String], environment: &[String]) -> Vec<String> {
    exec_start.iter().chain(environment).cloned().collect()
}

/// The binary, its configuration file and all that this includes.
#[derive(Debug, PartialEq, Eq)]
struct Files(BTreeMap<PathBuf, Version>);

/// Nanoseconds since 1970, bytes.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    mtime: i128,
    ctime: i128,
    size: u64,
    inode: u64,
}

impl Files {
    /// `None` if not all of them can be found.
    fn of(exec_start: &[String]) -> Option<Files> {
        let mut files = Files(BTreeMap::new());
        files.add(Path::new(exec_start.first()?))?;
        files.add_config(Path::new(config_file(exec_start)?), 0)?;
        Some(files)
    }

    fn add(&mut self, path: &Path) -> Option<()> {
        let seen = path.metadata().ok()?;
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        let version = Version {
            mtime: ns(seen.mtime(), seen.mtime_nsec()),
            ctime: ns(seen.ctime(), seen.ctime_nsec()),
            size: seen.len(),
            inode: seen.ino(),
        };
        self.0.insert(path.to_owned(), version);
        (self.0.len() <= FILES_MAX).then_some(())
    }

    fn add_config(&mut self, path: &Path, depth: u32) -> Option<()> {
        if !path.is_absolute() || !path.metadata().ok()?.is_file() || depth > INCLUDE_DEPTH {
            return None;
        }
        self.add(path)?;
        let mut text = Vec::new();
        std::fs::File::open(path).ok()?.take(FILE_MAX + 1).read_to_end(&mut text).ok()?;
        if text.len() as u64 > FILE_MAX {
            return None;
        }
        for pattern in includes(&String::from_utf8_lossy(&text)) {
            // Relative to what was compiled in, or dependent on the environment: not for us to resolve.
            if !pattern.starts_with('/') || pattern.contains('$') {
                return None;
            }
            for included in glob::glob(pattern).ok()? {
                self.add_config(&included.ok()?, depth + 1)?;
            }
        }
        Some(())
    }

    fn older_than(&self, started: SystemTime) -> bool {
        let Some(limit) = started.checked_sub(COARSE).and_then(|limit| limit.duration_since(SystemTime::UNIX_EPOCH).ok()) else {
            return false;
        };
        self.0.values().all(|version| u128::try_from(version.ctime).is_ok_and(|ctime| ctime < limit.as_nanos()))
    }
}

/// The patterns of `include = pattern` lines.
fn includes(text: &str) -> Vec<&str> {
    let value = |line: &'_ str| -> Option<std::ops::Range<usize>> {
        let rest = line.trim_start().strip_prefix("include")?.trim_start().strip_prefix('=')?;
        let start = line.len() - rest.len();
        let end = rest.find(';').map_or(line.len(), |comment| start + comment);
        Some(start..end)
    };
    text.lines().filter_map(|line| value(line).map(|range| line[range].trim().trim_matches(['"', '\'']))).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const OUTPUT: &str = include_str!("../../../tests/fixtures/fpm/tt-8.2-debian.txt");

    struct Place {
        directory: tempfile::TempDir,
        exec_start: Vec<String>,
    }

    impl Place {
        fn new(include: &str) -> Place {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().to_str().unwrap().to_owned();
            fs::create_dir(directory.path().join("pool.d")).unwrap();
            fs::write(directory.path().join("php-fpm"), "binary").unwrap();
            fs::write(
                directory.path().join("php-fpm.conf"),
                format!("; include=/nowhere\n[global]\n include = {}\n", include.replace("ROOT", &root)),
            )
            .unwrap();
            fs::write(directory.path().join("pool.d/www.conf"), "[www]\n").unwrap();
            let exec_start = vec![format!("{root}/php-fpm"), "-y".to_owned(), format!("{root}/php-fpm.conf")];
            Place { directory, exec_start }
        }

        /// As if the files had been there for long.
        fn later() -> SystemTime {
            SystemTime::now() + Duration::from_secs(1)
        }
    }

    #[test]
    fn a_layout_is_kept_until_a_file_changes() {
        let changes: [fn(&Path); 5] = [
            |root| fs::write(root.join("pool.d/www.conf"), "[www]\nlisten = 1\n").unwrap(),
            |root| fs::write(root.join("pool.d/new.conf"), "[new]\n").unwrap(),
            |root| fs::remove_file(root.join("pool.d/www.conf")).unwrap(),
            |root| fs::write(root.join("php-fpm.conf"), "").unwrap(),
            |root| fs::write(root.join("php-fpm"), "upgraded").unwrap(),
        ];
        for change in changes {
            let place = Place::new("\"ROOT/pool.d/*.conf\" ; all of them");
            let mut cache = LayoutCache::default();
            assert_eq!(cache.get("a.service", &place.exec_start, &[]), None);
            let layout = cache.put("a.service", &place.exec_start, &[], Place::later(), OUTPUT).unwrap();
            assert_eq!(cache.get("a.service", &place.exec_start, &[]), Some(layout));
            assert_eq!(cache.get("b.service", &place.exec_start, &[]), None);
            assert_eq!(cache.get("a.service", &place.exec_start, &["GENERATION=2".to_owned()]), None);
            change(place.directory.path());
            assert_eq!(cache.get("a.service", &place.exec_start, &[]), None);
        }
    }

    #[test]
    fn what_changed_while_php_fpm_ran_is_not_kept() {
        let place = Place::new("ROOT/pool.d/*.conf");
        let mut cache = LayoutCache::default();
        assert!(cache.put("a.service", &place.exec_start, &[], SystemTime::now(), OUTPUT).is_ok());
        assert_eq!(cache.get("a.service", &place.exec_start, &[]), None);
    }

    #[test]
    fn what_cannot_be_followed_is_not_kept() {
        for include in ["pool.d/*.conf", "ROOT/${SITE}.conf", "ROOT/php-fpm.conf"] {
            let place = Place::new(include);
            let mut cache = LayoutCache::default();
            assert!(cache.put("a.service", &place.exec_start, &[], Place::later(), OUTPUT).is_ok());
            assert_eq!(cache.get("a.service", &place.exec_start, &[]), None, "{include}");
        }
    }

    #[test]
    fn an_error_forgets_what_was_known() {
        let place = Place::new("ROOT/pool.d/*.conf");
        let mut cache = LayoutCache::default();
        cache.put("a.service", &place.exec_start, &[], Place::later(), OUTPUT).unwrap();
        assert!(cache.put("a.service", &place.exec_start, &[], Place::later(), "").is_err());
        assert_eq!(cache.get("a.service", &place.exec_start, &[]), None);
    }
}
