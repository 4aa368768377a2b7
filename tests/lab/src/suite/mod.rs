//! A `harness = false` test binary of closures that run on real hosts.

pub(crate) mod journals;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::{Release, requirements};

/// Trials that run at once in one process, unless `--test-threads` says otherwise.
const THREADS: usize = 2;

/// The trials of one test binary; from [`suite`].
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     lab::suite()
///         .on_each("php_fpm_runs", |release| {
///             let host = lab::Host::boot(release, "web")?;
///             host.ok(&["systemctl", "is-active", release.fpm_unit()])?;
///             Ok(())
///         })
///         .plain("two_and_two", || anyhow::Ok(()))
///         .run()
/// }
/// ```
#[must_use]
pub struct Suite {
    arguments: Arguments,
    blocked: Option<String>,
    trials: Vec<Trial>,
}

/// An empty suite that knows the command line of the process: a filter, `--list`, `--exact`, `--test-threads`
/// and the rest of what libtest understands.
pub fn suite() -> Suite {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let blocked = requirements::check().err();
    Suite { arguments, blocked, trials: Vec::new() }
}

impl Suite {
    /// A trial for each release, named like `debian12::name`.
    pub fn on_each(mut self, name: &str, test: impl Fn(Release) -> Result<()> + Clone + Send + 'static) -> Suite {
        for release in Release::ALL {
            self = self.on(release, name, test.clone());
        }
        self
    }

    /// A trial for one release, named like `debian12::name`. Where the machine cannot boot hosts, it is
    /// reported as ignored.
    pub fn on(mut self, release: Release, name: &str, test: impl FnOnce(Release) -> Result<()> + Send + 'static) -> Suite {
        let name = format!("{release}::{name}");
        let trial = trial(name, move || test(release)).with_ignored_flag(self.blocked.is_some());
        self.trials.push(trial);
        self
    }

    /// A trial that needs no host.
    pub fn plain(mut self, name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Suite {
        self.trials.push(trial(name.to_owned(), test));
        self
    }

    /// Runs what the command line selects, prints the result as libtest does, and returns the exit code:
    /// success when nothing failed.
    pub fn run(self) -> ExitCode {
        if let Some(reason) = &self.blocked {
            eprintln!("lab: host tests are skipped: {reason}");
        }
        libtest_mimic::run(&self.arguments, self.trials).exit_code()
    }
}

fn trial(name: String, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name.clone(), move || {
        journals::begin(&name);
        let failure = match catch_unwind(AssertUnwindSafe(test)) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Some(format!("panicked: {}", text.unwrap_or_default()))
            }
        };
        let journals = journals::end(failure.is_some());
        match failure {
            None => Ok(()),
            Some(mut message) => {
                for path in journals {
                    message.push_str(&format!("\njournal: {}", path.display()));
                }
                Err(Failed::from(message))
            }
        }
    })
}
