//! The symlink that a web server connects to: where it leads, and to make it lead elsewhere.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where it leads, as an absolute path; `None`: there is none.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] if something else than a symlink is there; else what reading it says.
pub fn leads_to(link: &Path) -> Result<Option<String>> {
    let to = match fs::read_link(link) {
        Ok(to) => to,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(error),
    };
    let absolute = link.parent().map_or_else(|| to.clone(), |directory| directory.join(&to));
    Ok(Some(absolute.to_string_lossy().into_owned()))
}

/// Makes it lead to `to`, in one step: at every moment it leads to the old one or to the new one (rename(2), facts 12).
///
/// # Errors
/// If something else than a symlink is there, or its directory cannot be written.
pub fn switch(link: &Path, to: &Path) -> Result<()> {
    leads_to(link)?;
    let directory = link.parent().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "it is no path of a file"))?;
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    // Beside it, so that the way stays right wherever the directory is mounted.
    let to: PathBuf = if to.parent() == Some(directory) { to.file_name().map(PathBuf::from).unwrap_or_default() } else { to.to_owned() };
    let new = directory.join(format!(".{name}.restart-agent"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&to, &new)?;
    fs::rename(&new, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leads_where_it_was_switched_to_and_is_never_gone() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("current.sock");
        assert_eq!(leads_to(&link).unwrap(), None);
        for name in ["a.sock", "b.sock"] {
            // What an interrupted switch has left is no obstacle.
            let _ = symlink("nowhere", directory.path().join(".current.sock.restart-agent"));
            switch(&link, &directory.path().join(name)).unwrap();
            assert_eq!(leads_to(&link).unwrap(), Some(directory.path().join(name).to_string_lossy().into_owned()));
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(name));
        }
        switch(&link, Path::new("/elsewhere/c.sock")).unwrap();
        assert_eq!(leads_to(&link).unwrap(), Some("/elsewhere/c.sock".to_owned()));
    }

    #[test]
    fn what_is_no_symlink_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("current.sock");
        fs::write(&file, "somebody's").unwrap();
        assert_eq!(leads_to(&file).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(switch(&file, &directory.path().join("a.sock")).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "somebody's");
    }
}
