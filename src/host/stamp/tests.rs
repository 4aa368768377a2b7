use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;
use crate::core::deploy::Deploy;
use crate::core::time::Now;

const SOON: Duration = Duration::from_secs(5);
/// Long enough for an event that is on its way.
const QUIET: Duration = Duration::from_millis(30);

/// A directory `in` with a stamp in it that says `one`.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        fs::create_dir(place.at("in")).unwrap();
        fs::write(place.stamp(), "one\n").unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn stamp(&self) -> PathBuf {
        self.at("in/stamp")
    }
}

fn content(path: &Path) -> Option<String> {
    read(path).ok().map(|seen| seen.content)
}

/// `change` ends a wait within the deadline, at every turn.
async fn noticed(path: &Path, turns: usize, mut change: impl FnMut(usize)) {
    let mut watch = Watch::new(path);
    assert_eq!(watch.trouble(), None);
    for turn in 0..turns {
        settle(&mut watch).await;
        change(turn);
        tokio::time::timeout(SOON, watch.changed()).await.unwrap_or_else(|_| panic!("turn {turn} was not noticed"));
    }
}

async fn settle(watch: &mut Watch) {
    while tokio::time::timeout(QUIET, watch.changed()).await.is_ok() {}
}

#[tokio::test]
async fn writing_touching_truncating_and_chmod_are_noticed_t03() {
    let place = Place::new();
    let path = place.stamp();
    noticed(&path, 8, |turn| match turn % 4 {
        0 => fs::write(&path, format!("{turn}")).unwrap(),
        1 => fs::File::options().write(true).open(&path).unwrap().set_modified(std::time::SystemTime::now()).unwrap(),
        2 => fs::File::create(&path).map(drop).unwrap(),
        _ => fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + u32::try_from(turn).unwrap() / 4)).unwrap(),
    })
    .await;
}

/// A deploy hook that writes in place is not told of before it has closed the file (trap T3).
#[tokio::test]
async fn what_is_written_in_place_is_told_when_it_is_closed_t03() {
    let place = Place::new();
    let path = place.stamp();
    let mut watch = Watch::new(&path);
    settle(&mut watch).await;
    let mut file = fs::File::create(&path).unwrap();
    for half in ["id = \"two\"\n", "targets = [\"one\"]\n"] {
        std::io::Write::write_all(&mut file, half.as_bytes()).unwrap();
        assert!(tokio::time::timeout(QUIET, watch.changed()).await.is_err(), "told in the middle of a write");
    }
    drop(file);
    tokio::time::timeout(SOON, watch.changed()).await.unwrap();
    assert_eq!(content(&path).as_deref(), Some("id = \"two\"\ntargets = [\"one\"]\n"));
}

/// Whoever never closes it is waited for no longer than two seconds; whoever replaces it meanwhile is not kept waiting.
#[tokio::test]
async fn a_writer_that_never_ends_does_not_hide_a_stamp() {
    let place = Place::new();
    let path = place.stamp();
    let mut watch = Watch::new(&path);
    settle(&mut watch).await;
    let mut file = fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut file, b"two").unwrap();
    let begun = std::time::Instant::now();
    tokio::time::timeout(SOON, watch.changed()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());

    std::io::Write::write_all(&mut file, b"three").unwrap();
    assert!(tokio::time::timeout(QUIET, watch.changed()).await.is_err());
    fs::write(place.at("in/new"), "four").unwrap();
    fs::rename(place.at("in/new"), &path).unwrap();
    tokio::time::timeout(Duration::from_secs(1), watch.changed()).await.unwrap();
    assert_eq!(content(&path).as_deref(), Some("four"));
}

#[tokio::test]
async fn a_rename_over_it_is_noticed_and_so_is_what_is_written_then_t03() {
    let place = Place::new();
    let path = place.stamp();
    noticed(&path, 6, |turn| {
        if turn % 2 == 0 {
            fs::write(place.at("in/new"), "two").unwrap();
            fs::rename(place.at("in/new"), &path).unwrap();
        } else {
            fs::write(&path, "three").unwrap();
        }
    })
    .await;
    assert_eq!(content(&path).as_deref(), Some("three"));
}

#[tokio::test]
async fn deleting_and_making_it_again_is_noticed_t03() {
    let place = Place::new();
    let path = place.stamp();
    noticed(&path, 6, |turn| if turn % 2 == 0 { fs::remove_file(&path).unwrap() } else { fs::write(&path, "two").unwrap() }).await;
}

#[tokio::test]
async fn a_swapped_symbolic_link_is_noticed_and_so_are_writes_through_it_t03() {
    let place = Place::new();
    for name in ["a", "b"] {
        fs::write(place.at(name), name).unwrap();
    }
    let path = place.at("link");
    symlink("a", &path).unwrap();
    noticed(&path, 6, |turn| match turn % 3 {
        0 => {
            symlink("b", place.at("next")).unwrap();
            fs::rename(place.at("next"), &path).unwrap();
        }
        1 => fs::write(place.at("b"), format!("b{turn}")).unwrap(),
        _ => {
            fs::remove_file(&path).unwrap();
            symlink(place.at("a"), &path).unwrap();
        }
    })
    .await;
    assert_eq!(content(&path).as_deref(), Some("a"));
}

#[tokio::test]
async fn a_swapped_link_in_the_middle_of_the_path_is_noticed_t03() {
    let place = Place::new();
    for release in ["releases/1/deep", "releases/2/deep"] {
        fs::create_dir_all(place.at(release)).unwrap();
        fs::write(place.at(release).join("stamp"), release).unwrap();
    }
    symlink("releases/1", place.at("current")).unwrap();
    let path = place.at("current/deep/stamp");
    noticed(&path, 4, |turn| match turn {
        0 | 2 => {
            symlink(format!("releases/{}", 2 - turn / 2), place.at("next")).unwrap();
            fs::rename(place.at("next"), place.at("current")).unwrap();
        }
        1 => fs::write(place.at("releases/2/deep/stamp"), "two").unwrap(),
        _ => fs::rename(place.at("releases/1"), place.at("releases/3")).unwrap(),
    })
    .await;
    assert_eq!(read(&path), Err(StampFault::Missing { path: path.display().to_string() }));
}

#[tokio::test]
async fn a_replaced_parent_is_noticed_t03() {
    let place = Place::new();
    let path = place.stamp();
    noticed(&path, 4, |turn| match turn {
        0 => fs::rename(place.at("in"), place.at("old")).unwrap(),
        1 => {
            fs::create_dir(place.at("new")).unwrap();
            fs::write(place.at("new/stamp"), "two").unwrap();
            fs::rename(place.at("new"), place.at("in")).unwrap();
        }
        2 => fs::write(&path, "three").unwrap(),
        _ => fs::remove_dir_all(place.at("in")).unwrap(),
    })
    .await;
}

#[tokio::test]
async fn parents_made_later_are_noticed() {
    let place = Place::new();
    let path = place.at("a/b/c/stamp");
    noticed(&path, 5, |turn| match turn {
        0 => fs::create_dir(place.at("a")).unwrap(),
        1 => fs::create_dir(place.at("a/b")).unwrap(),
        2 => fs::create_dir(place.at("a/b/c")).unwrap(),
        3 => fs::write(&path, "one").unwrap(),
        _ => fs::write(&path, "two").unwrap(),
    })
    .await;
    assert_eq!(content(&path).as_deref(), Some("two"));
}

#[tokio::test]
async fn parents_and_stamp_made_at_once_are_noticed() {
    let place = Place::new();
    let path = place.at("a/b/c/stamp");
    let mut watch = Watch::new(&path);
    fs::create_dir_all(place.at("a/b/c")).unwrap();
    fs::write(&path, "one").unwrap();
    tokio::time::timeout(SOON, watch.changed()).await.unwrap();
    assert_eq!(content(&path).as_deref(), Some("one"), "what is there when changed() returns is read after it");
}

#[tokio::test]
async fn a_link_in_a_circle_that_is_mended_is_noticed() {
    let place = Place::new();
    let path = place.at("link");
    symlink("link", &path).unwrap();
    assert!(matches!(read(&path), Err(StampFault::Unreadable { error, .. }) if error.contains("circle")));
    noticed(&path, 1, |_| {
        fs::remove_file(&path).unwrap();
        symlink("in/stamp", &path).unwrap();
    })
    .await;
    assert_eq!(content(&path).as_deref(), Some("one\n"));
}

#[tokio::test]
async fn an_overflow_is_noticed_t03() {
    let place = Place::new();
    let mut watch = Watch::new(&place.stamp());
    let most: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    fs::write(place.at("in/x0"), "").unwrap();
    for turn in 0..=most / 2 {
        fs::rename(place.at(&format!("in/x{}", turn % 2)), place.at(&format!("in/x{}", (turn + 1) % 2))).unwrap();
    }
    tokio::time::timeout(SOON, watch.changed()).await.unwrap();
    settle(&mut watch).await;
    fs::write(place.stamp(), "two").unwrap();
    tokio::time::timeout(SOON, watch.changed()).await.unwrap();
}

#[tokio::test]
async fn other_names_and_reading_wake_nobody() {
    let place = Place::new();
    let path = place.stamp();
    let mut watch = Watch::new(&path);
    settle(&mut watch).await;
    for turn in 0..100 {
        fs::write(place.at("in/other"), format!("{turn}")).unwrap();
        fs::write(place.at(&format!("in/other{turn}")), "").unwrap();
        read(&path).unwrap();
    }
    fs::rename(place.at("in/other"), place.at("in/another")).unwrap();
    assert!(tokio::time::timeout(QUIET, watch.changed()).await.is_err());
}

#[tokio::test]
async fn many_changes_are_one_wakeup() {
    let place = Place::new();
    let mut watch = Watch::new(&place.stamp());
    for turn in 0..1000 {
        fs::write(place.stamp(), format!("{turn}")).unwrap();
    }
    tokio::time::timeout(SOON, watch.changed()).await.unwrap();
    assert!(tokio::time::timeout(QUIET, watch.changed()).await.is_err());
}

#[tokio::test]
async fn the_number_of_watches_is_bounded() {
    let place = Place::new();
    let deep = (0..100).fold(place.at("deep"), |path, _| path.join("d"));
    fs::create_dir_all(&deep).unwrap();
    let watch = Watch::new(&deep.join("stamp"));
    assert!(watch.trouble().unwrap().contains("64"));
}

/// In a mount namespace of its own, so in a thread of its own.
#[test]
fn a_bind_mount_is_noticed_t03() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let place = Place::new();
    fs::create_dir(place.at("over")).unwrap();
    fs::write(place.at("over/stamp"), "mounted").unwrap();
    let bind = |source: PathBuf, target: PathBuf| mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .and_then(|()| mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>));
            assert_eq!(own, Ok(()), "this test mounts: run it as root");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let path = place.stamp();
            runtime.block_on(noticed(&path, 4, |turn| match turn {
                0 => bind(place.at("over"), place.at("in")).unwrap(),
                1 => fs::write(place.at("over/stamp"), "two").unwrap(),
                2 => umount2(&place.at("in"), MntFlags::empty()).unwrap(),
                _ => bind(place.at("over/stamp"), path.clone()).unwrap(),
            }));
            assert_eq!(content(&path).as_deref(), Some("two"));
        });
    });
}

#[test]
fn a_stamp_has_content_times_and_a_digest() {
    let place = Place::new();
    let seen = read(&place.stamp()).unwrap();
    let meta = fs::metadata(place.stamp()).unwrap();
    let mtime = meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(seen.identity.mtime, i64::try_from(mtime.as_nanos()).unwrap());
    assert_eq!(seen.content, "one\n");
    // echo one | sha256sum
    assert_eq!(seen.identity.digest, "2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806");
    assert!(seen.ctime.0.unsigned_abs().abs_diff(u64::try_from(mtime.as_micros()).unwrap()) < 1_000_000);
}

/// Written twice within one tick of the file system's clock, with as many bytes.
#[tokio::test]
async fn two_of_one_time_and_one_size_are_noticed_and_told_apart_t02() {
    let place = Place::new();
    let path = place.stamp();
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        read(&path).unwrap()
    };
    let first = write("two\n");
    noticed(&path, 3, |turn| {
        let second = write(["six\n", "ten\n", "one\n"][turn]);
        assert_eq!((second.identity.mtime, second.content.len()), (first.identity.mtime, first.content.len()));
        assert_ne!(second.identity, first.identity);
    })
    .await;
}

#[test]
fn the_limit_is_64_kib_of_text_t40() {
    let place = Place::new();
    fs::write(place.stamp(), "x".repeat(CONTENT_MAX)).unwrap();
    assert_eq!(content(&place.stamp()).map(|text| text.len()), Some(CONTENT_MAX));
    fs::write(place.stamp(), "x".repeat(CONTENT_MAX + 1)).unwrap();
    assert!(matches!(read(&place.stamp()), Err(StampFault::TooLong { .. })));
    fs::File::create(place.stamp()).unwrap().set_len(1 << 30).unwrap();
    assert!(matches!(read(&place.stamp()), Err(StampFault::TooLong { .. })));
    fs::write(place.stamp(), [0xff, 0xfe]).unwrap();
    assert!(matches!(read(&place.stamp()), Err(StampFault::NotText { .. })));
}

#[test]
fn what_is_no_file_is_named_and_never_opened_t40() {
    let place = Place::new();
    mkfifo(&place.at("fifo"), Mode::from_bits_truncate(0o644)).unwrap();
    let _listener = UnixListener::bind(place.at("socket")).unwrap();
    let what = |path: &Path| match read(path) {
        Err(StampFault::NotAFile { what, .. }) => what,
        other => format!("{other:?}"),
    };
    assert_eq!(what(&place.at("fifo")), "a named pipe");
    assert_eq!(what(&place.at("socket")), "a socket");
    assert_eq!(what(&place.at("in")), "a directory");
    assert_eq!(what(Path::new("/dev/null")), "a device");
    assert_eq!(what(Path::new("/")), "a directory");
    symlink("fifo", place.at("link")).unwrap();
    assert_eq!(what(&place.at("link")), "a named pipe");
    assert!(matches!(read(&place.at("in/stamp/x")), Err(StampFault::Unreadable { .. })));
    assert!(matches!(read(Path::new("in/stamp")), Err(StampFault::Unreadable { .. })));
}

#[test]
fn dot_dot_and_links_lead_where_the_kernel_says() {
    let place = Place::new();
    fs::create_dir_all(place.at("x/y")).unwrap();
    symlink("../../in", place.at("x/y/link")).unwrap();
    symlink(place.at("x/y/link/../in/stamp"), place.at("absolute")).unwrap();
    symlink("nowhere", place.at("dangling")).unwrap();
    for name in ["x/y/link/stamp", "x/../in/./stamp", "absolute"] {
        let path = place.0.path().join(name);
        assert_eq!(content(&path), fs::read_to_string(&path).ok(), "{name}");
    }
    assert!(matches!(read(&place.at("dangling")), Err(StampFault::Missing { .. })));
}

#[test]
fn somebodys_link_does_not_lead_to_what_only_root_may_read_t40() {
    let place = Place::new();
    let secret = place.at("secret");
    fs::write(&secret, "s3cret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).unwrap();
    let link = place.at("link");
    symlink("secret", &link).unwrap();
    assert_eq!(content(&link).as_deref(), Some("s3cret"), "their own, or root's");
    std::os::unix::fs::lchown(&link, Some(65534), None).expect("this test gives a link away: run it as root");
    let error = read(&link).unwrap_err();
    assert!(matches!(&error, StampFault::Unreadable { error, .. } if !error.contains("s3cret")), "{error}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(content(&link).is_some(), "everybody may read it");
}

#[test]
fn a_file_of_secrets_is_refused_without_a_word_of_it_t40() {
    let place = Place::new();
    let secrets =
        "root:$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n";
    fs::write(place.stamp(), secrets).unwrap();
    let fault = Deploy::read(&read(&place.stamp()).unwrap(), Now::default()).unwrap_err().to_string();
    for word in ["root", "F5Jx5f", "daemon", "19000"] {
        assert!(!fault.contains(word), "{fault}");
    }
}

#[test]
fn a_file_that_is_written_meanwhile_is_never_read_half_t03() {
    let place = Place::new();
    let path = place.stamp();
    let texts = ["a".repeat(60_000), "b".repeat(50_000)];
    fs::write(&path, &texts[0]).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..300 {
                fs::write(place.at("in/new"), &texts[turn % 2]).unwrap();
                fs::rename(place.at("in/new"), &path).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            match read(&path) {
                Ok(seen) => assert!(texts.contains(&seen.content)),
                Err(fault) => assert!(fault.to_string().contains("changes while"), "{fault}"),
            }
        }
    });
    assert_eq!(content(&path).as_ref(), Some(&texts[1]));
}
