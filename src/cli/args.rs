//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::core::time::Span;
use crate::store;

/// Renews everything on this host that runs deployed PHP code, after each deploy.
#[derive(Debug, Parser)]
#[command(
    name = "restart-agent",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:\n  restart-agent status\n  touch /srv/deploy/stamp; restart-agent wait\n\nExit status: 64 usage error, 77 needs root; each command's --help has its own."
)]
pub struct Cli {
    #[command(flatten)]
    pub places: Places,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the agent keeps its files: other places are for tests.
#[derive(Debug, Args)]
pub struct Places {
    #[arg(long, global = true, hide = true, default_value = store::STATE_DIR)]
    pub state_dir: PathBuf,
    #[arg(long, global = true, hide = true, default_value = store::RUN_DIR)]
    pub run_dir: PathBuf,
    /// D-Bus address of the bus that the agent is on, instead of the system bus.
    #[arg(long, global = true, hide = true, value_name = "ADDRESS")]
    pub bus: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// What runs which code, what the agent is doing, what it waits for, until when, what comes next
    #[command(
        after_help = "Works for everybody, and while the agent is not running.\n\nExamples:\n  restart-agent status --watch\n  restart-agent status --json | jq -r .state\n\nExit status: 0; 3 the agent is not running; 4 there is no state."
    )]
    Status(StatusArgs),
    /// What a deploy right now would do: each unit, process, request in flight, deadline. Changes nothing
    #[command(after_help = "Example:\n  sudo restart-agent plan\n\nExit status: 0; 3 the agent is not running.")]
    Plan(PlanArgs),
    /// Waits until the deploy that has just landed is converged on this host: for the deploy hook
    #[command(
        after_help = "Reads the stamp itself, so it is right directly after the touch.\n\nExample:\n  touch /srv/deploy/stamp && restart-agent wait --timeout 5m\n\nExit status: 0 converged; 1 failed or blocked; 124 timed out; 3 the agent is not running."
    )]
    Wait(WaitArgs),
    /// Starts a rollout without a change of the stamp: whatever is older than this moment is stale
    #[command(
        after_help = "The deploy id stays. The order is on the disk before this returns.\n\nExample:\n  sudo restart-agent trigger --target jobrunner --reason 'opcache is corrupt'\n\nExit status: 0 accepted; 1 refused; 3 the agent is not running."
    )]
    Trigger(TriggerArgs),
    /// No restarts until released or expired
    #[command(
        after_help = "Who, why and until when are shown everywhere.\n\nExample:\n  sudo restart-agent hold --reason 'dump is running, T12345' --for 2h\n\nExit status: 0; 1 refused; 3 the agent is not running."
    )]
    Hold(HoldArgs),
    /// Ends the hold: a deploy that waited goes on
    #[command(after_help = "Example:\n  sudo restart-agent release\n\nExit status: 0; 1 refused; 3 the agent is not running.")]
    Release,
    /// Gives up the current rollout at its next safe point, repools, and holds for 1h
    #[command(
        after_help = "After the hold the same deploy goes on: restart-agent release ends the hold at once.\n\nExample:\n  sudo restart-agent abort --reason 'bad deploy, rolling back'\n\nExit status: 0; 1 refused; 3 the agent is not running."
    )]
    Abort(AbortArgs),
    /// Past rollouts, newest first
    #[command(
        after_help = "Examples:\n  sudo restart-agent history -n 5\n  sudo restart-agent history --plot rollout.svg\n\nExit status: 0; 1 there is no such rollout, or the picture cannot be written."
    )]
    History(HistoryArgs),
    /// Which requests and scripts were cut, exactly
    #[command(after_help = "Example:\n  sudo restart-agent casualties --since 7d\n\nExit status: 0.")]
    Casualties(CasualtiesArgs),
    /// Checks the configuration: errors with file, line and caret
    #[command(
        after_help = "With files: only these, as for Puppet's validate_cmd. Without: what the agent would load.\n\nExample:\n  restart-agent check-config /etc/restart-agent/conf.d/10-jobs.toml\n\nExit status: 0 good; 78 not good."
    )]
    CheckConfig(CheckConfigArgs),
    /// Every trap that this host's php-fpm, opcache settings and units hold, with the line that mends each. Changes nothing
    #[command(
        after_help = "Needs no agent. php-fpm -t, -tt and -i run as transient units.\n\nExample:\n  sudo restart-agent doctor\n\nExit status: 0 clean; 1 findings, or something could not be looked at."
    )]
    Doctor(DoctorArgs),
    /// Writes the files that turn a php-fpm pool into generations, for review
    #[command(
        after_help = "Nothing is put in place: README.md among the files has the steps in order, and the way back.\n\nExample:\n  sudo restart-agent migrate-pool php8.2-fpm.service --into /root/generations\n\nExit status: 0, the files are listed; 1 it cannot be done, and why."
    )]
    MigratePool(MigratePoolArgs),
    /// For scripts: is this unit asked to stop at its next checkpoint?
    #[command(
        after_help = "A script that stops then ends with exit status 75 if it is to be run again, to go on from there, and with 0 if it is done.\nNeeds no agent: where there is none, nobody is asked.\n\nExample, in a loop over chunks of work:\n  if restart-agent should-stop; then save_position; exit 75; fi\n\nExit status: 0 yes; 1 no; 2 not in a unit of a target."
    )]
    ShouldStop(ShouldStopArgs),
    /// For scripts: runs a command that must not be interrupted, while the unit's lock is held
    #[command(
        after_help = "SIGTERM waits until the command has ended, at most hold_timeout. Where there is no agent the command just runs.\n\nExample:\n  restart-agent protect -- rsync -a /srv/dump/ backup::dump/\n\nExit status: the command's; 126 it cannot be run; 127 it is not there."
    )]
    Protect(ProtectArgs),
    /// Runs the agent: restart-agent.service does it
    #[command(after_help = "Example:\n  systemctl start restart-agent")]
    Daemon(DaemonArgs),
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The state as JSON
    #[arg(long)]
    pub json: bool,
    /// Again at each change, until interrupted
    #[arg(long)]
    pub watch: bool,
    /// Only this target, with all its units
    #[arg(long, value_name = "T")]
    pub target: Option<String>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The plan as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Wait for this deploy, or a newer one, instead of the one in the stamp
    #[arg(long, value_name = "ID")]
    pub deploy: Option<String>,
    /// Give up after this long [default: the deadlines of the plan + 60s]
    #[arg(long, value_name = "D", value_parser = Span::parse)]
    pub timeout: Option<Span>,
    /// A line at each change, also where standard error is no terminal
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Debug, Args)]
pub struct TriggerArgs {
    /// No slot, no depool, no drain: an emergency
    #[arg(long)]
    pub force: bool,
    /// Also while a hold is in force
    #[arg(long)]
    pub override_hold: bool,
    /// Only this target; may be given several times
    #[arg(long = "target", value_name = "T")]
    pub targets: Vec<String>,
    /// For history and for who looks at status
    #[arg(long, value_name = "R")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct HoldArgs {
    /// Why: shown to everybody who wonders
    #[arg(long, value_name = "R")]
    pub reason: String,
    /// How long, at most
    #[arg(long = "for", value_name = "D", value_parser = at_least_a_second, default_value = "1h")]
    pub span: Span,
    /// Only this target; may be given several times
    #[arg(long = "target", value_name = "T")]
    pub targets: Vec<String>,
}

#[derive(Debug, Args)]
pub struct AbortArgs {
    /// Why: shown to everybody who wonders
    #[arg(long, value_name = "R")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The rollouts as JSON
    #[arg(long)]
    pub json: bool,
    /// How many [default: 20]; with --plot, the N-th newest [default: 1]
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub number: Option<u32>,
    /// Writes one rollout as a picture: phases, requests in flight, casualties. `-` is standard output
    #[arg(long, value_name = "FILE.svg", conflicts_with = "json")]
    pub plot: Option<PathBuf>,
    /// With --plot, the rollout with this id
    #[arg(long, value_name = "ID", requires = "plot", conflicts_with = "number")]
    pub rollout: Option<String>,
}

#[derive(Debug, Args)]
pub struct CasualtiesArgs {
    /// The casualties as JSON
    #[arg(long)]
    pub json: bool,
    /// Only those of the last D
    #[arg(long, value_name = "D", value_parser = Span::parse)]
    pub since: Option<Span>,
    /// With the full request line, which may hold secrets
    #[arg(long)]
    pub requests: bool,
}

#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    /// The files to check, merged in this order
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The findings as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct MigratePoolArgs {
    /// The unit of the php-fpm
    #[arg(value_name = "UNIT")]
    pub unit: String,
    /// Where to write [default: UNIT-generations, here]
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// What units, directories and sockets are called [default: the pool's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct ShouldStopArgs {
    /// The unit [default: the one whose process calls]
    #[arg(value_name = "UNIT")]
    pub unit: Option<String>,
}

#[derive(Debug, Args)]
pub struct ProtectArgs {
    /// The command with its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Begin nothing; put back, start again and remove what is owed to this host, then end: for the removal of the package
    #[arg(long, hide = true)]
    pub settle_debts: bool,
}

/// A hold that is over when it begins would hold nothing.
fn at_least_a_second(text: &str) -> Result<Span, String> {
    let span = Span::parse(text)?;
    if span.0 < Duration::from_secs(1) { Err("at least 1s; restart-agent release ends a hold".to_owned()) } else { Ok(span) }
}
