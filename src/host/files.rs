//! Configuration files of others, as text.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// More of them, or longer ones, are nobody's configuration.
const FILES_MAX: usize = 2000;
const FILE_MAX: u64 = 1 << 20;

/// The regular files that these globs match, or that have these names, by path. What cannot be read is left out.
#[must_use]
pub fn read(globs: &[String]) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for pattern in globs {
        let Ok(paths) = glob::glob(pattern) else { continue };
        for path in paths.flatten().take(FILES_MAX) {
            if let (Some(name), Some(text)) = (path.to_str(), text(&path)) {
                files.insert(name.to_owned(), text);
            }
        }
    }
    files
}

/// The text of one file, lossy UTF-8; `None` if it is not there, longer than 1 MiB, or no regular file.
#[must_use]
pub fn text(path: &Path) -> Option<String> {
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE_MAX + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= FILE_MAX).then(|| String::from_utf8_lossy(&bytes).into_owned())
}
