//! Files that others read at any time: replaced at once, whole.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Replaces `path` by this: a reader sees the old file or the new one. Mode 0644; not synced, for it says nothing after a reboot.
///
/// The directory may be somebody else's: what lies in the way of the new file is removed and never followed.
///
/// # Errors
/// Whatever the file system says; the old file is then still there.
pub(super) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let make = || fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&fresh);
    let made = match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(&fresh).and_then(|()| make()),
        made => made,
    };
    let written = made.and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(contents)?;
        fs::rename(&fresh, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}
