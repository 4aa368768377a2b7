//! The commands: one file each. What they print is made by pure functions of the view types.

mod abort;
mod args;
mod bus;
mod caller;
mod casualties;
mod check_config;
mod daemon;
mod doctor;
mod exit;
#[cfg(test)]
mod generated;
mod history;
mod hold;
mod migrate_pool;
mod output;
mod phrase;
mod plan;
mod plot;
mod progress;
mod protect;
mod release;
mod should_stop;
mod status;
mod status_text;
mod trigger;
mod wait;
mod watch;

#[cfg(test)]
mod bus_tests;
#[cfg(test)]
mod doctor_tests;
#[cfg(test)]
mod tests;

pub use args::Cli;
pub use exit::Exit;

use clap::Parser;

use args::Command;
use output::Output;

/// The whole program, from its arguments to its exit status.
#[must_use]
pub fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Help that was asked for is no usage error.
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    run(cli, &Output::of_process()).into()
}

fn run(cli: Cli, out: &Output) -> Exit {
    let places = cli.places;
    match cli.command {
        Command::Status(args) => status::run(&args, &places, out),
        Command::Plan(args) => plan::run(&args, &places, out),
        Command::Wait(args) => wait::run(&args, &places, out),
        Command::Trigger(args) => trigger::run(&args, &places, out),
        Command::Hold(args) => hold::run(&args, &places, out),
        Command::Release => release::run(&places, out),
        Command::Abort(args) => abort::run(&args, &places, out),
        Command::History(args) => history::run(&args, &places, out),
        Command::Casualties(args) => casualties::run(&args, &places, out),
        Command::CheckConfig(args) => check_config::run(&args, out),
        Command::Doctor(args) => doctor::run(&args, &places, out),
        Command::MigratePool(args) => migrate_pool::run(&args, &places, out),
        Command::ShouldStop(args) => should_stop::run(&args, &places, out),
        Command::Protect(args) => protect::run(&args, &places, out),
        Command::Daemon(args) => daemon::run(&args, &places, out),
    }
}
