//! The world that the engine acts on, and the journal that it writes.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Stimulus;
use crate::config::{self, Roots};
use crate::core::deploy::{StampFault, StampSeen};
use crate::core::effect::{Effect, Outcome};
use crate::core::entry::Written;
use crate::core::memory::Memory;
use crate::core::policy::Policy;
use crate::core::time::Now;
use crate::host::systemd::{Hint, Hints};
use crate::host::{Host, clock, stamp};
use crate::store::{Store, StoreFault};

/// Everything outside. The real half is [`RealWorld`].
pub trait World: 'static {
    fn now(&self) -> Now;

    /// Performs one effect and owes what its docstring says, within the time that it says.
    fn perform(&self, effect: Effect) -> impl Future<Output = Outcome>;

    fn read_stamp(&self, path: &str) -> Result<StampSeen, StampFault>;

    /// From now on a change of this stamp is told as [`Stimulus::Stamp`].
    fn watch_stamp(&self, path: &str);

    /// From now on a change of one of these symlinks, or of the socket that it leads to, is told as [`Stimulus::Sockets`].
    fn watch_sockets(&self, paths: &[String]);

    /// Whether hints of systemd are of use; if not, nothing of it wakes the agent.
    fn listen(&self, on: bool) -> impl Future<Output = ()>;

    /// Reads the files of the configuration. The error is the first line of what is wrong with them.
    fn read_configuration(&self) -> Result<Policy, String>;
}

/// Where the engine writes what must outlive it. The real half is [`Store`], which says what each owes.
pub trait Journal: 'static {
    fn append(&self, entries: Vec<Written>) -> impl Future<Output = Result<(), StoreFault>>;

    fn snapshot(&self, memory: &Memory) -> impl Future<Output = Result<(), StoreFault>>;

    fn write_metrics(&self, path: &Path, text: String, at_once: bool);
}

impl Journal for Store {
    async fn append(&self, entries: Vec<Written>) -> Result<(), StoreFault> {
        Store::append(self, entries).await
    }

    async fn snapshot(&self, memory: &Memory) -> Result<(), StoreFault> {
        Store::snapshot(self, memory).await
    }

    fn write_metrics(&self, path: &Path, text: String, at_once: bool) {
        Store::write_metrics(self, path, text, at_once);
    }
}

/// The real host.
#[derive(Debug)]
pub struct RealWorld {
    host: Host,
    roots: Roots,
    stimuli: mpsc::Sender<Stimulus>,
    watcher: Mutex<Option<AbortHandle>>,
    /// By path.
    sockets: Mutex<BTreeMap<String, AbortHandle>>,
}

impl RealWorld {
    /// Begins to pass on the hints of systemd.
    #[must_use]
    pub fn new(host: Host, hints: Hints, roots: Roots, stimuli: mpsc::Sender<Stimulus>) -> Arc<RealWorld> {
        tokio::spawn(pass_on(hints, stimuli.clone()));
        Arc::new(RealWorld { host, roots, stimuli, watcher: Mutex::default(), sockets: Mutex::default() })
    }

    /// Drop-ins of ours that are there without being in the journal.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        self.host.leftovers()
    }
}

impl World for RealWorld {
    fn now(&self) -> Now {
        clock::now()
    }

    async fn perform(&self, effect: Effect) -> Outcome {
        self.host.perform(&effect).await
    }

    fn read_stamp(&self, path: &str) -> Result<StampSeen, StampFault> {
        stamp::read(std::path::Path::new(path))
    }

    fn watch_stamp(&self, path: &str) {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = watcher.take() {
            old.abort();
        }
        if !path.is_empty() {
            *watcher = Some(tokio::spawn(watch(PathBuf::from(path), self.stimuli.clone(), || Stimulus::Stamp)).abort_handle());
        }
    }

    fn watch_sockets(&self, paths: &[String]) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.retain(|path, watcher| {
            let wanted = paths.contains(path);
            if !wanted {
                watcher.abort();
            }
            wanted
        });
        for path in paths {
            let begin = || tokio::spawn(watch(PathBuf::from(path), self.stimuli.clone(), || Stimulus::Sockets)).abort_handle();
            sockets.entry(path.clone()).or_insert_with(begin);
        }
    }

    async fn listen(&self, on: bool) {
        if on { self.host.listen() } else { self.host.rest() }
    }

    fn read_configuration(&self) -> Result<Policy, String> {
        match config::load(&self.roots) {
            Ok(loaded) => {
                tracing::info!(files = loaded.files.len(), "the configuration was read again");
                Ok(loaded.policy)
            }
            Err(errors) => {
                tracing::error!("the configuration was not taken, the old one stays:\n{errors}");
                Err(errors.first_line())
            }
        }
    }
}

async fn watch(path: PathBuf, stimuli: mpsc::Sender<Stimulus>, tells: fn() -> Stimulus) {
    let mut watch = stamp::Watch::new(&path);
    if let Some(trouble) = watch.trouble() {
        tracing::warn!("{trouble}");
    }
    // What changed before the watch was in place is seen by the read that this causes.
    while stimuli.send(tells()).await.is_ok() {
        watch.changed().await;
    }
}

async fn pass_on(mut hints: Hints, stimuli: mpsc::Sender<Stimulus>) {
    loop {
        let stimulus = match hints.next().await {
            Hint::JobRemoved { unit } => Stimulus::JobRemoved { unit },
            Hint::LookAgain => Stimulus::LookAgain,
        };
        if stimuli.send(stimulus).await.is_err() {
            return;
        }
    }
}
