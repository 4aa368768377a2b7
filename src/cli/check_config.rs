//! `check-config`: for Puppet's `validate_cmd`, and for whoever edits by hand.

use super::args::CheckConfigArgs;
use super::exit::Exit;
use super::output::Output;
use crate::config;

pub fn run(args: &CheckConfigArgs, out: &Output) -> Exit {
    let checked = if args.files.is_empty() { config::load(&config::Roots::default()).map(drop) } else { config::check_files(&args.files) };
    match checked {
        Ok(()) => Exit::Done,
        Err(errors) => {
            out.complain(&errors.to_string());
            Exit::BadConfig
        }
    }
}
