//! Wakes up when something changes near the stamp. A hint and nothing more (law 4): filesystems without inotify events, and
//! whatever else it misses, are caught by whoever reads the stamp again now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags as Flags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::walk::walk;

/// One for each directory on the way, links included, and one for the file.
const WATCHES_MAX: usize = 64;
/// Somebody who writes into the file in place is waited for until the file is closed, so that half a stamp is no deploy (trap T3); but no longer
/// than this.
const WRITING: Duration = Duration::from_secs(2);
/// A file that was just made and is empty: whoever made it may be about to write into it, or was done before it was watched.
const MADE: Duration = Duration::from_millis(100);
/// So many reads of 4 KiB of events before somebody else gets a turn.
const BATCHES_MAX: u32 = 64;

/// Only changes of names: what is written into other files beside the stamp wakes nobody.
const DIRECTORY: Flags = Flags::IN_CREATE
    .union(Flags::IN_DELETE)
    .union(Flags::IN_MOVED_FROM)
    .union(Flags::IN_MOVED_TO)
    .union(Flags::IN_DELETE_SELF)
    .union(Flags::IN_MOVE_SELF)
    .union(Flags::IN_ONLYDIR);
const FILE: Flags =
    Flags::IN_MODIFY.union(Flags::IN_ATTRIB).union(Flags::IN_CLOSE_WRITE).union(Flags::IN_DELETE_SELF).union(Flags::IN_MOVE_SELF);

/// Watches every name that the path of the stamp goes through, the targets of symbolic links included, the file itself, and the
/// mounts of this machine (a mount over any of them is no event to inotify).
///
/// What is missing is waited for in the nearest directory that exists. An idle `Watch` costs nothing; a busy directory on the way
/// costs a wakeup of this process, not of the caller, for what is created, removed or renamed in it.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    queue: Option<AsyncFd<Queue>>,
    mounts: Option<AsyncFd<File>>,
    /// The names of interest in each watched directory; none for the file.
    watched: BTreeMap<WatchDescriptor, BTreeSet<OsString>>,
    /// The watch of the file itself.
    file: Option<WatchDescriptor>,
    /// It had no content when that watch was put on it.
    empty: bool,
    /// Something has changed that was not told yet.
    owed: bool,
    /// The file was written into and not closed yet: waited for until then.
    writing: Option<Instant>,
    /// That it was written into is known, and not only taken for possible.
    written: bool,
    trouble: Option<String>,
}

/// What a batch of events says.
#[derive(Debug, Default)]
struct Heard {
    near: bool,
    /// The last that was heard of writing into the file: begun or ended.
    writing: Option<bool>,
}

impl Watch {
    /// Begins to watch an absolute path: whatever changes from now on ends a [`Watch::changed`]. Inside a tokio runtime with I/O only.
    #[must_use]
    pub fn new(path: &Path) -> Watch {
        let queue = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(std::io::Error::from);
        let queue = queue.and_then(|inotify| register(Queue(inotify), Interest::READABLE));
        // Of the thread: that is the mount namespace in which paths are resolved.
        let mounts = File::open("/proc/thread-self/mountinfo").and_then(|file| register(file, Interest::PRIORITY));
        let trouble = queue.as_ref().err().map(|error| format!("cannot watch the stamp, so it is only polled: {error}"));
        let mut watch = Watch {
            path: path.to_owned(),
            queue: queue.ok(),
            mounts: mounts.ok(),
            watched: BTreeMap::new(),
            file: None,
            empty: false,
            owed: false,
            writing: None,
            written: false,
            trouble,
        };
        watch.arm();
        watch
    }

    /// Returns when the stamp may have changed since the last return, or since [`Watch::new`], and nobody is in the middle of writing into it, at
    /// the latest 2 s after that has begun; never without a reason, sometimes without a change. Many changes at once are one return. Dropping
    /// the future loses nothing.
    pub async fn changed(&mut self) {
        loop {
            if self.owed && self.writing.is_none() {
                self.owed = false;
                return;
            }
            let until = self.writing;
            tokio::select! {
                heard = events(self.queue.as_ref(), &self.watched, self.file) => {
                    match heard.writing {
                        Some(true) if self.written => {}
                        Some(true) => (self.writing, self.written) = (Some(Instant::now() + WRITING), true),
                        Some(false) => (self.writing, self.written) = (None, false),
                        None => {}
                    }
                    if heard.near {
                        self.near();
                    }
                }
                () = mounted(self.mounts.as_ref()) => self.near(),
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => (self.writing, self.written) = (None, false),
            }
        }
    }

    fn near(&mut self) {
        self.owed = true;
        let file = self.file;
        self.arm();
        if self.file != file {
            // Whoever writes into a file that is no stamp any more is of no interest.
            self.written = false;
            self.writing = (self.empty && self.file.is_some()).then(|| Instant::now() + MADE);
        }
    }

    /// Why some changes are noticed by polling only, if that is so.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Puts watches where the path leads now. Each directory is watched before a name is looked up in it, so that no change falls
    /// between the two.
    fn arm(&mut self) {
        let Some(queue) = &self.queue else { return };
        let inotify = &queue.get_ref().0;
        let mut watched: BTreeMap<WatchDescriptor, BTreeSet<OsString>> = BTreeMap::new();
        let mut trouble = None;
        let mut file = None;
        let mut add = |fd: &OwnedFd, flags: Flags, name: Option<&OsStr>| {
            if watched.len() >= WATCHES_MAX {
                trouble = Some(format!("the path of the stamp goes through more than {WATCHES_MAX} directories: some are only polled"));
                return;
            }
            match inotify.add_watch(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str(), flags) {
                Ok(watch) => {
                    file = name.is_none().then_some(watch);
                    watched.entry(watch).or_default().extend(name.map(OsStr::to_owned));
                }
                Err(Errno::ENOSPC) => {
                    trouble = Some("cannot watch the stamp, so it is only polled: fs.inotify.max_user_watches is reached".to_owned())
                }
                Err(errno) => {
                    trouble =
                        Some(format!("cannot watch {} on the way to the stamp, so it is only polled: {}", display(name), errno.desc()))
                }
            }
        };
        if let Ok(end) = walk(&self.path, |directory, name| add(directory, DIRECTORY, Some(name)))
            && super::other_than_file(&end.seen).is_none()
        {
            add(&end.fd, FILE, None);
            self.empty = end.seen.st_size == 0;
        }
        for gone in self.watched.keys().filter(|watch| !watched.contains_key(watch)) {
            // It is gone by itself if what it watched is.
            let _ = inotify.rm_watch(*gone);
        }
        self.watched = watched;
        self.file = file;
        self.trouble = trouble;
    }
}

fn display(name: Option<&OsStr>) -> String {
    name.map_or_else(|| "the file".to_owned(), |name| name.display().to_string())
}

/// Waits for events.
async fn events(
    queue: Option<&AsyncFd<Queue>>,
    watched: &BTreeMap<WatchDescriptor, BTreeSet<OsString>>,
    file: Option<WatchDescriptor>,
) -> Heard {
    let Some(queue) = queue else { return std::future::pending().await };
    let Ok(mut ready) = queue.readable().await else { return std::future::pending().await };
    let mut heard = Heard::default();
    for _ in 0..BATCHES_MAX {
        match ready.get_inner().0.read_events() {
            Ok(events) => {
                for event in &events {
                    heard.near |= of_interest(event, watched);
                    if file == Some(event.wd) && event.mask.intersects(Flags::IN_MODIFY.union(Flags::IN_CLOSE_WRITE)) {
                        heard.writing = Some(event.mask.contains(Flags::IN_MODIFY));
                    }
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => {
                ready.clear_ready();
                break;
            }
        }
    }
    heard
}

fn of_interest(event: &InotifyEvent, watched: &BTreeMap<WatchDescriptor, BTreeSet<OsString>>) -> bool {
    if event.mask.contains(Flags::IN_Q_OVERFLOW) {
        return true;
    }
    match (watched.get(&event.wd), &event.name) {
        (Some(names), Some(name)) => names.contains(name),
        // The file, or the directory as a whole.
        (Some(_), None) => true,
        (None, _) => false,
    }
}

async fn mounted(mounts: Option<&AsyncFd<File>>) {
    let Some(mounts) = mounts else { return std::future::pending().await };
    match mounts.ready(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}

/// What tokio 1.54 offers instead is this same constructor, marked unsafe because a type could give another descriptor at each
/// call. Those two types own theirs.
#[allow(deprecated)]
fn register<T: AsRawFd>(inner: T, interest: Interest) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, interest)
}

/// An [`Inotify`] that tokio can wait for.
#[derive(Debug)]
struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
