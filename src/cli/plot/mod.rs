//! `history --plot`: one rollout as a picture.

mod cut;
mod pen;
mod picture;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

pub use picture::svg;

use super::args::{HistoryArgs, Places};
use super::exit::Exit;
use super::history::unread;
use super::output::Output;
use crate::store::Reader;

/// `file`: where to, `-` is standard output.
pub fn run(args: &HistoryArgs, file: &Path, places: &Places, out: &Output) -> Exit {
    let skip = args.number.unwrap_or(1).saturating_sub(1);
    let view = match Reader::open(&places.state_dir).and_then(|reader| reader.rollout(args.rollout.as_deref(), skip)) {
        Ok(Some(view)) => view,
        Ok(None) => {
            let which = args.rollout.as_ref().map_or_else(|| "so many rollouts".to_owned(), |id| format!("rollout \"{id}\""));
            return out.fail(Exit::Failed, &format!("history does not have {which}: restart-agent history lists what it has"));
        }
        Err(fault) => return unread(&fault, out),
    };
    let svg = svg(&view, &out.page());
    if file.as_os_str() == "-" {
        out.say(&svg);
        return Exit::Done;
    }
    match write(file, &svg) {
        Ok(()) => Exit::Done,
        Err(error) => out.fail(Exit::Failed, &format!("cannot write {}: {error}", file.display())),
    }
}

/// Writes the file, or over it. What is no regular file is left as it is: a link may lead root anywhere.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other("it is there and is no regular file"));
    }
    // It may have become one meanwhile.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags.bits()).open(path)?;
    file.write_all(text.as_bytes())
}
