//! A load balancer entry whose state is a file on disk, so that it outlives a reboot, and whose three commands wait, fail or lie when a
//! test tells them to.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{Host, wait_for};

const DIRECTORY: &str = "/var/lib/lab-pool";
const DEADLINE: Duration = Duration::from_secs(30);

/// One of the three commands of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Writes "depooled".
    Depool,
    /// Writes "pooled".
    Repool,
    /// Exits 0 or 1.
    Check,
}

/// The moment at which a command waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing has been done yet.
    Before,
    /// It has done what it is for, and has not ended.
    After,
}

/// The pool of one host.
#[derive(Debug, Clone, Copy)]
pub struct FilePool<'h> {
    host: &'h Host,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Command::Depool => "depool",
            Command::Repool => "repool",
            Command::Check => "check",
        }
    }
}

impl<'h> FilePool<'h> {
    /// Writes the commands; the host is in the pool.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn install(host: &'h Host) -> Result<FilePool<'h>> {
        let pool = FilePool { host };
        pool.set("pooled")?;
        for (command, act) in [
            (Command::Depool, "echo depooled > state.new && mv state.new state && sync state"),
            (Command::Repool, "echo pooled > state.new && mv state.new state && sync state"),
            (Command::Check, "case $(cat state) in pooled) end=0 ;; depooled) end=1 ;; *) end=2 ;; esac"),
        ] {
            host.write_mode(&format!("{DIRECTORY}/{}", command.name()), script(command.name(), act), 0o755)?;
        }
        Ok(pool)
    }

    /// Its section of the configuration.
    #[must_use]
    pub fn config(timeout: &str, quiet: &str) -> String {
        format!(
            "[pool]\ndepool = [\"{DIRECTORY}/depool\"]\nrepool = [\"{DIRECTORY}/repool\"]\ncheck = [\"{DIRECTORY}/check\"]\n\
             timeout = \"{timeout}\"\nquiet = \"{quiet}\"\n"
        )
    }

    /// "pooled" or "depooled", as the file has it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn state(&self) -> Result<String> {
        Ok(self.host.read(&format!("{DIRECTORY}/state"))?.trim().to_owned())
    }

    /// Sets the state as somebody other than the agent would.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set(&self, state: &str) -> Result<()> {
        self.host.replace(&format!("{DIRECTORY}/state"), format!("{state}\n"))
    }

    /// Waits until the file has this state.
    ///
    /// # Errors
    /// Not within 30 s.
    pub fn wait_state(&self, state: &str) -> Result<()> {
        wait_for(&format!("the pool to say {state}"), DEADLINE, || {
            let is = self.state()?;
            if is == state { Ok(Some(())) } else { bail!("{is}") }
        })
    }

    /// How often a command was called.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn calls(&self, command: Command) -> Result<usize> {
        if !self.host.exists(&format!("{DIRECTORY}/log")) {
            return Ok(0);
        }
        Ok(self.host.read(&format!("{DIRECTORY}/log"))?.lines().filter(|line| *line == command.name()).count())
    }

    /// The next call of the command, and none after it, waits at this moment, until [`FilePool::let_go`] or its own time-out.
    ///
    /// # Errors
    /// The order cannot be written.
    pub fn block(&self, command: Command, moment: Moment) -> Result<()> {
        self.host.write(&format!("{DIRECTORY}/block-{}", place(command, moment)), "")
    }

    /// Waits until the command waits there.
    ///
    /// # Errors
    /// Not within 30 s.
    pub fn wait_blocked(&self, command: Command, moment: Moment) -> Result<()> {
        let file = format!("{DIRECTORY}/at-{}", place(command, moment));
        wait_for(&format!("{command:?} to wait {moment:?} its act"), DEADLINE, || Ok(self.host.exists(&file).then_some(())))
    }

    /// It goes on.
    ///
    /// # Errors
    /// The order cannot be removed.
    pub fn let_go(&self, command: Command, moment: Moment) -> Result<()> {
        self.host.remove(&format!("{DIRECTORY}/block-{}", place(command, moment)))?;
        self.host.remove(&format!("{DIRECTORY}/at-{}", place(command, moment)))
    }

    /// From now on the command does nothing, says `said` and exits `status`.
    ///
    /// # Errors
    /// The order cannot be written.
    pub fn fail(&self, command: Command, status: u8, said: &[u8]) -> Result<()> {
        let name = command.name();
        self.host.write(&format!("{DIRECTORY}/said-{name}"), said)?;
        self.host.replace(&format!("{DIRECTORY}/fail-{name}"), format!("{status}\n"))
    }

    /// From now on it does what it is for.
    ///
    /// # Errors
    /// The order cannot be removed.
    pub fn mend(&self, command: Command) -> Result<()> {
        self.host.remove(&format!("{DIRECTORY}/fail-{}", command.name()))
    }
}

fn place(command: Command, moment: Moment) -> String {
    format!("{}-{}", command.name(), if moment == Moment::Before { "before" } else { "after" })
}

/// The agent's time-out for the command bounds how long it waits.
fn script(name: &str, act: &str) -> String {
    format!(
        r#"#!/bin/sh
cd {DIRECTORY} || exit 3
echo {name} >> log
hold() {{
    if mv "block-{name}-$1" "at-{name}-$1" 2>/dev/null; then
        while [ -e "at-{name}-$1" ]; do sleep 0.02; done
    fi
}}
hold before
if [ -e fail-{name} ]; then cat said-{name}; exit "$(cat fail-{name})"; fi
end=0
{act}
hold after
exit $end
"#
    )
}
