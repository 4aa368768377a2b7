//! `migrate-pool`: writes the files that turn a php-fpm pool into generations, for review.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::args::{MigratePoolArgs, Places};
use super::doctor::look;
use super::exit::Exit;
use super::output::Output;
use crate::engine::doctor;

pub fn run(args: &MigratePoolArgs, places: &Places, out: &Output) -> Exit {
    let files = match look(places, out, |options| doctor::migrate(options, &args.unit, args.name.as_deref())) {
        Ok(files) => files,
        Err(exit) => return exit,
    };
    let into = args.into.clone().unwrap_or_else(|| PathBuf::from(format!("{}-generations", args.unit.trim_end_matches(".service"))));
    match write(&into, &files) {
        Ok(written) => {
            out.say(&written.join("\n"));
            Exit::Done
        }
        Err(error) => out.fail(Exit::Failed, &format!("cannot write to {}: {error}", into.display())),
    }
}

/// Into a directory that has none of these files: what somebody has begun to edit is never written over.
fn write(into: &Path, files: &[(String, String)]) -> std::io::Result<Vec<String>> {
    fs::create_dir_all(into)?;
    if let Some((name, _)) = files.iter().find(|(name, _)| into.join(name).symlink_metadata().is_ok()) {
        return Err(std::io::Error::other(format!("{name} is there already; choose another directory with --into")));
    }
    let mut written = Vec::new();
    for (name, text) in files {
        let path = into.join(name);
        fs::File::create_new(&path)?.write_all(text.as_bytes())?;
        written.push(path.display().to_string());
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let into = directory.path().join("a/b");
        let files = [("x".to_owned(), "1".to_owned()), ("y".to_owned(), "2".to_owned())];
        assert_eq!(write(&into, &files).unwrap(), [into.join("x"), into.join("y")].map(|path| path.display().to_string()));
        fs::remove_file(into.join("x")).unwrap();
        fs::write(into.join("y"), "edited").unwrap();
        assert!(write(&into, &files).unwrap_err().to_string().starts_with("y is there already"));
        assert!(!into.join("x").exists() && fs::read_to_string(into.join("y")).unwrap() == "edited");
    }
}
