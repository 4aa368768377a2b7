//! What `wait` shows while it waits: a line on a terminal, lines with `--verbose`, else nothing.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;
use super::watch::Seen;
use super::{status, status_text};
use crate::core::status::StatusView;

/// How often the state is looked at.
const POLL: Duration = Duration::from_millis(250);

pub struct Progress<'a> {
    run_dir: PathBuf,
    out: &'a Output,
    line: Option<ProgressBar>,
    verbose: bool,
    seen: Option<Seen>,
    told: Option<Told>,
}

/// What makes a new line worth its place. Not the deadline: told in wall time it moves by microseconds from look to look.
#[derive(Debug, PartialEq, Eq)]
struct Told(crate::core::status::State, Option<String>, Option<String>, bool);

impl<'a> Progress<'a> {
    pub fn new(run_dir: &Path, verbose: bool, out: &'a Output) -> Self {
        let line = (std::io::stderr().is_terminal() && !verbose).then(|| {
            let line = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                line.set_style(style);
            }
            line
        });
        Progress { run_dir: run_dir.to_owned(), out, line, verbose, seen: None, told: None }
    }

    /// Shows how it goes until `work` is done.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        if self.line.is_none() && !self.verbose {
            return work.await;
        }
        loop {
            self.look();
            if let Ok(done) = tokio::time::timeout(POLL, &mut work).await {
                return done;
            }
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }

    fn look(&mut self) {
        if let Some(line) = &self.line {
            let said = match status::look(&self.run_dir) {
                Ok(view) if view.agent.running => status_text::one_line(&view, &self.out.page()),
                _ => super::bus::NOT_RUNNING.to_owned(),
            };
            line.set_message(said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>());
            line.tick();
            return;
        }
        let seen = Seen::of(&self.run_dir);
        if self.seen == Some(seen) {
            return;
        }
        self.seen = Some(seen);
        if let Ok(view) = status::look(&self.run_dir) {
            let told = told(&view);
            if self.told.as_ref() != Some(&told) {
                let page = self.out.page();
                self.out.complain(&format!("{} {}", page.time(page.now), status_text::one_line(&view, &page).replace('\n', " ")));
                self.told = Some(told);
            }
        }
    }
}

fn told(view: &StatusView) -> Told {
    Told(view.state, view.waiting_for.clone(), view.next.clone(), view.agent.running)
}
