use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::core::deploy::{Deploy, Scope, StampIdentity};
use crate::core::effect::{CommandEnd, Effect, EffectId, Fault, JobEnd, Outcome, WorkerRef};
use crate::core::entry::{Entry, Written};
use crate::core::event::Order;
use crate::core::memory::{Memory, TargetMemory};
use crate::core::status::{Casualty, CasualtyKind, RolloutResult, UnitEnd, UnitOutcome};
use crate::core::time::{Mono, Wall};

/// A fold that every test can predict: each adopted target becomes one of the memory.
fn fold(memory: &mut Memory, written: &Written) {
    if let Entry::Adopted { target, .. } = &written.entry {
        memory.targets.insert(target.clone(), TargetMemory::default());
        memory.next_effect += 1;
    }
}

fn adopted(name: &str) -> Written {
    Written { at: wall_now(), entry: Entry::Adopted { target: name.to_owned(), id: None } }
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded.memory.targets.keys().map(String::as_str).collect()
}

fn open(dir: &Path) -> (Store, Loaded) {
    Store::open(dir, fold).unwrap()
}

fn deploy(id: &str) -> Deploy {
    Deploy {
        id: id.to_owned(),
        landed_at: Wall(0),
        landed: Mono(0),
        targets: Scope::All,
        forced: Scope::none(),
        reason: Some("why".to_owned()),
    }
}

fn casualty(at: Wall) -> Casualty {
    Casualty {
        target: "jobrunner".to_owned(),
        unit: "php8.2-fpm.service".to_owned(),
        what: CasualtyKind::Request,
        pid: 7,
        name: "/srv/app/index.php".to_owned(),
        ran: "3.2s".to_owned(),
        ended_by: "SIGTERM".to_owned(),
        certain: true,
        perhaps: false,
        at,
        rollout: None,
        request: Some("GET /index.php?token=secret".to_owned()),
    }
}

fn rollout(id: &str, at: Wall) -> Vec<Written> {
    let end = UnitOutcome {
        target: "jobrunner".to_owned(),
        unit: "php8.2-fpm.service".to_owned(),
        what: UnitEnd::Renewed,
        why: "restarted".to_owned(),
        notes: Vec::new(),
        starved: false,
    };
    [
        Entry::RolloutStarted {
            id: id.to_owned(),
            deploy: deploy(&format!("deploy-{id}")),
            targets: BTreeSet::new(),
            by: Some("root".to_owned()),
            over_hold: false,
        },
        Entry::PhaseBegan { target: "jobrunner".to_owned(), phase: "drain".to_owned() },
        Entry::PhaseEnded { target: "jobrunner".to_owned(), phase: "drain".to_owned() },
        Entry::Casualty(casualty(at)),
        Entry::UnitEnded(end),
        Entry::RolloutFinished { result: RolloutResult::Converged, why: None },
    ]
    .map(|entry| Written { at, entry })
    .to_vec()
}

#[tokio::test]
async fn what_was_appended_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (store, loaded) = open(&state);
    assert_eq!(loaded, Loaded::default());
    store.append(vec![adopted("a"), adopted("b")]).await.unwrap();
    store.append(vec![]).await.unwrap();
    drop(store);
    let (store, loaded) = open(&state);
    assert_eq!(names(&loaded), ["a", "b"]);
    store.snapshot(&loaded.memory).await.unwrap();
    store.append(vec![adopted("c")]).await.unwrap();
    drop(store);
    let (_store, loaded) = open(&state);
    assert_eq!(names(&loaded), ["a", "b", "c"]);
    assert_eq!(loaded.memory.next_effect, 3, "an entry was folded twice, or not at all");
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(state.clone()), mode(state.join("restart-agent.db"))), (0o700, 0o600));
    assert_eq!(mode(state.join("restart-agent.db-wal")), 0o600);
}

#[tokio::test]
async fn a_snapshot_keeps_the_newest_thousand_entries() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append((0..1500).map(|n| adopted(&n.to_string())).collect()).await.unwrap();
    store.snapshot(&Memory { next_effect: 1500, ..Memory::default() }).await.unwrap();
    let count = |sql: &str| database::open_read_only(dir.path()).unwrap().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM journal"), 1000);
    assert_eq!(count("SELECT min(seq) FROM journal"), 501);
    store.append(vec![adopted("later")]).await.unwrap();
    drop(store);
    assert_eq!(open(dir.path()).1.memory.next_effect, 1501);
}

/// The other half of the next test, which runs it with a directory.
#[tokio::test]
async fn child_that_appends_for_ever() {
    let Ok(dir) = std::env::var("STORE_TEST_DIR") else { return };
    let (store, _) = open(Path::new(&dir));
    for n in 0.. {
        store.append(vec![adopted(&format!("{n:08}"))]).await.unwrap();
        println!("committed {n}");
        if n % 50 == 49 {
            let memory = (0..=n).map(|n| (format!("{n:08}"), TargetMemory::default())).collect();
            store.snapshot(&Memory { targets: memory, next_effect: n + 1, ..Memory::default() }).await.unwrap();
        }
    }
}

#[test]
fn killed_between_commits_nothing_answered_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    for stop_after in [1, 49, 130] {
        let state = dir.path().join(stop_after.to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::child_that_appends_for_ever", "--nocapture", "--test-threads=1"])
            .env("STORE_TEST_DIR", &state)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.by_ref().map(Result::unwrap).find(|line| line.ends_with(&format!("committed {stop_after}"))).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let answered = lines
            .map_while(Result::ok)
            .filter_map(|line| line.rsplit_once("committed ")?.1.parse::<u64>().ok())
            .last()
            .unwrap_or(stop_after);
        let (_store, loaded) = open(&state);
        let there = loaded.memory.next_effect;
        assert!(there == answered + 1 || there == answered + 2, "{answered} was answered last, {there} are there");
        assert_eq!(loaded.memory.targets.len() as u64, there);
        assert_eq!(loaded.problem, None);
    }
}

#[tokio::test]
async fn history_has_what_the_journal_said() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let now = wall_now();
    let entries = rollout("1", now);
    store.append(entries[..3].to_vec()).await.unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.rollouts(5).unwrap()[0].result, None, "a rollout shows while it runs");
    store.append(entries[3..].to_vec()).await.unwrap();
    store.append(rollout("2", now.after(std::time::Duration::from_secs(1)))).await.unwrap();
    let seen = reader.rollouts(5).unwrap();
    assert_eq!(
        seen.iter().map(|view| (view.id.as_str(), view.result, view.casualties.len())).collect::<Vec<_>>(),
        [("2", Some(RolloutResult::Converged), 1), ("1", Some(RolloutResult::Converged), 1)]
    );
    assert_eq!((seen[1].phases.len(), seen[1].phases[0].finished_at, seen[1].units.len()), (1, Some(now), 1));
    assert_eq!((seen[1].by.as_deref(), seen[1].reason.as_deref()), (Some("root"), Some("why")));
    assert_eq!(seen[1].casualties[0].request.as_deref(), Some("GET /index.php?token=secret"));
    assert_eq!(reader.rollouts(1).unwrap().len(), 1);
    assert_eq!(reader.casualties(None).unwrap().len(), 2);
    assert_eq!(reader.casualties(Some(now.after(std::time::Duration::from_millis(1)))).unwrap().len(), 1);
    drop(store);
    assert_eq!(Reader::open(dir.path()).unwrap().casualties(None).unwrap().len(), 2, "the daemon is gone");
}

#[tokio::test]
async fn a_rollout_that_was_under_way_goes_on_in_history() {
    let dir = tempfile::tempdir().unwrap();
    let remembering = |memory: &mut Memory, written: &Written| memory.apply(written);
    let entries = rollout("1", wall_now());
    let (store, _) = Store::open(dir.path(), remembering).unwrap();
    store.append(entries[..1].to_vec()).await.unwrap();
    drop(store);
    let (store, _) = Store::open(dir.path(), remembering).unwrap();
    store.append(entries[1..].to_vec()).await.unwrap();
    let seen = Reader::open(dir.path()).unwrap().rollouts(5).unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].result, seen[0].casualties.len(), seen[0].units.len()), (Some(RolloutResult::Converged), 1, 1));
}

/// A generation may drain for a day after its rollout, while others come and go.
#[tokio::test]
async fn what_comes_after_a_rollout_is_added_to_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let remembering = |memory: &mut Memory, written: &Written| memory.apply(written);
    let flight = |id: &str, unit: &str, in_flight| {
        let (rollout, target, unit) = (Some(id.to_owned()), "jobrunner".to_owned(), unit.to_owned());
        Written { at: wall_now(), entry: Entry::InFlight { rollout, target, unit, in_flight } }
    };
    let cut = |id: &str| {
        let casualty = Casualty { rollout: Some(id.to_owned()), ..casualty(wall_now()) };
        Written { at: wall_now(), entry: Entry::Casualty(casualty) }
    };
    let (store, _) = Store::open(dir.path(), remembering).unwrap();
    let mut entries = rollout("1", wall_now());
    entries.insert(2, flight("1", "old", 9));
    store.append([entries, rollout("2", wall_now())].concat()).await.unwrap();
    drop(store);
    let (store, loaded) = Store::open(dir.path(), remembering).unwrap();
    assert_eq!(loaded.memory.last_rollout.unwrap().id, "2");
    let running = rollout("3", wall_now());
    store
        .append([running[..1].to_vec(), vec![flight("1", "old", 4), flight("3", "new", 7), flight("1", "old", 0)]].concat())
        .await
        .unwrap();
    store.append(vec![cut("1"), cut("3"), flight("2", "other", 1), flight("gone", "gone", 1)]).await.unwrap();

    let reader = Reader::open(dir.path()).unwrap();
    let told = |view: &crate::core::status::RolloutView| {
        let flights: Vec<_> = view.flights.iter().map(|flight| (flight.unit.clone(), flight.in_flight)).collect();
        (view.id.clone(), flights, view.casualties.len())
    };
    let flew = |values: &[(&str, u32)]| values.iter().map(|(unit, n)| ((*unit).to_owned(), *n)).collect::<Vec<_>>();
    let seen = |id| told(&reader.rollout(Some(id), 0).unwrap().unwrap());
    assert_eq!(seen("1"), ("1".to_owned(), flew(&[("old", 9), ("old", 4), ("old", 0)]), 2));
    assert_eq!(seen("2"), ("2".to_owned(), flew(&[("other", 1)]), 1));
    assert_eq!(seen("3"), ("3".to_owned(), flew(&[("new", 7)]), 1), "as far as it has come");
    assert_eq!(told(&reader.rollout(None, 0).unwrap().unwrap()).0, "3");
    assert_eq!(told(&reader.rollout(None, 2).unwrap().unwrap()).0, "1");
    assert_eq!((reader.rollout(None, 3).unwrap(), reader.rollout(Some("gone"), 0).unwrap()), (None, None));
    store.append(running[1..].to_vec()).await.unwrap();
    assert_eq!(seen("3"), ("3".to_owned(), flew(&[("new", 7)]), 2), "and over");
}

#[tokio::test]
async fn what_was_in_flight_is_kept_of_the_newest_thousand() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for n in 0..1100 {
        let mut entries = rollout(&n.to_string(), wall_now());
        let (target, unit) = ("jobrunner".to_owned(), "old".to_owned());
        let entry = Entry::InFlight { rollout: None, target, unit, in_flight: 3 };
        entries.insert(1, Written { at: wall_now(), entry });
        store.append(entries).await.unwrap();
    }
    store.snapshot(&Memory::default()).await.unwrap();
    let kept: Vec<bool> = Reader::open(dir.path()).unwrap().rollouts(2000).unwrap().iter().map(|view| !view.flights.is_empty()).collect();
    assert_eq!((kept.len(), kept.iter().position(|kept| !kept)), (1100, Some(1000)));
}

#[tokio::test]
async fn old_history_is_forgotten_at_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let now = wall_now();
    store.append(rollout("old", Wall(now.0 - 91 * 86_400_000_000))).await.unwrap();
    store.append(rollout("new", now)).await.unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.rollouts(9).unwrap().len(), 2);
    store.snapshot(&Memory::default()).await.unwrap();
    assert_eq!(reader.rollouts(9).unwrap().iter().map(|view| view.id.as_str()).collect::<Vec<_>>(), ["new"]);
    assert_eq!(reader.casualties(None).unwrap().len(), 1);
}

/// A file system of its own. Only root may mount one.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(dir.path()).output().unwrap();
        assert!(done.status.success(), "this test mounts a tmpfs: run it as root ({})", String::from_utf8_lossy(&done.stderr));
        Disk(dir)
    }

    fn remount(&self, how: &str) {
        assert!(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.0.path()).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_needs_no_help_afterwards_t38() {
    let disk = Disk::new();
    let state = disk.0.path().join("state");
    let (store, _) = open(&state);
    store.append(vec![adopted("before")]).await.unwrap();
    let mut ballast = fs::File::create(disk.0.path().join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let mut failed = None;
    for n in 0..500 {
        if let Err(fault) = store.append(vec![adopted(&format!("during-{n:03}"))]).await {
            failed = Some((n, fault));
            break;
        }
    }
    let (n, fault) = failed.expect("the disk never filled");
    assert_eq!(fault, StoreFault::Full(state.display().to_string()));
    assert!(fault.to_string().contains("make room"), "{fault}");
    assert!(matches!(store.append(vec![adopted("more")]).await, Err(StoreFault::Full(_))));
    assert!(matches!(store.snapshot(&Memory::default()).await, Err(StoreFault::Full(_))));
    ballast.set_len(0).unwrap();
    store.append(vec![adopted("zz-after")]).await.unwrap();
    drop(store);
    let (_store, loaded) = open(&state);
    let seen = names(&loaded);
    assert_eq!(seen.len(), usize::try_from(n).unwrap() + 4);
    assert!(seen.contains(&"more") && seen.contains(&"zz-after") && seen.contains(&"before"));
}

#[tokio::test]
async fn a_full_disk_at_start_is_a_problem_and_no_error() {
    let disk = Disk::new();
    let mut ballast = fs::File::create(disk.0.path().join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let (store, loaded) = open(&disk.0.path().join("state"));
    assert_eq!(loaded.memory, Memory::default());
    assert!(loaded.problem.is_some());
    assert!(store.append(vec![adopted("a")]).await.is_err());
    ballast.set_len(0).unwrap();
    store.append(vec![adopted("b")]).await.unwrap();
    drop(store);
    assert_eq!(names(&open(&disk.0.path().join("state")).1), ["a", "b"]);
}

#[tokio::test]
async fn a_disk_that_turns_read_only_keeps_its_memory_t38() {
    let disk = Disk::new();
    let state = disk.0.path().join("state");
    let (store, _) = open(&state);
    store.append(vec![adopted("a")]).await.unwrap();
    store.append(rollout("1", wall_now())).await.unwrap();
    drop(store);
    disk.remount("ro");
    let (store, loaded) = open(&state);
    assert_eq!(names(&loaded), ["a"]);
    assert_eq!(loaded.problem, Some(StoreFault::ReadOnly(state.display().to_string()).to_string()));
    assert!(matches!(store.append(vec![adopted("b")]).await, Err(StoreFault::ReadOnly(_))));
    assert_eq!(Reader::open(&state).unwrap().rollouts(5).unwrap().len(), 1);
    disk.remount("rw");
    store.append(vec![adopted("c")]).await.unwrap();
    drop(store);
    assert_eq!(names(&open(&state).1), ["a", "b", "c"]);
}

#[tokio::test]
async fn too_many_entries_for_a_dead_disk_are_refused_and_a_snapshot_heals() {
    let disk = Disk::new();
    let state = disk.0.path().join("state");
    drop(open(&state));
    disk.remount("ro");
    let (store, _) = open(&state);
    let many = |count: usize| (0..count).map(|n| adopted(&n.to_string())).collect::<Vec<_>>();
    assert!(matches!(store.append(many(10_000)).await, Err(StoreFault::ReadOnly(_))));
    assert!(matches!(store.append(many(1)).await, Err(StoreFault::Overflow(_))));
    disk.remount("rw,size=16m");
    store.snapshot(&Memory { next_effect: 10_001, ..Memory::default() }).await.unwrap();
    drop(store);
    assert_eq!(open(&state).1.memory.next_effect, 10_001);
}

fn scribble(path: &Path, from: u64, len: usize) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(from)).unwrap();
    file.write_all(&vec![0x5a; len]).unwrap();
}

#[tokio::test]
async fn a_damaged_database_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append(vec![adopted("a")]).await.unwrap();
    drop(store);
    scribble(&database::file(dir.path()), 0, 4096);
    let (store, loaded) = open(dir.path());
    assert_eq!(loaded.memory, Memory::default());
    let problem = loaded.problem.unwrap();
    assert!(problem.contains("was damaged") && problem.contains("restart-agent.db.corrupt-"), "{problem}");
    store.append(vec![adopted("b")]).await.unwrap();
    drop(store);
    let (_store, loaded) = open(dir.path());
    assert_eq!((names(&loaded), &loaded.problem), (vec!["b"], &None));
    let aside = fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("corrupt-"))
        .count();
    assert_eq!(aside, 1);
}

#[tokio::test]
async fn what_can_be_read_of_a_damaged_journal_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append((0..2000).map(|n| adopted(&format!("{n:05}"))).collect()).await.unwrap();
    drop(store);
    let path = database::file(dir.path());
    let len = fs::metadata(&path).unwrap().len();
    scribble(&path, len / 2 / 4096 * 4096, 4096);
    let (store, loaded) = open(dir.path());
    assert!(loaded.problem.clone().unwrap().contains("taken over"), "{loaded:?}");
    let saved = loaded.memory.targets.len();
    assert!(saved > 100 && saved < 2000, "{saved}");
    drop(store);
    assert_eq!(open(dir.path()).1, Loaded { memory: loaded.memory, problem: None });
}

#[tokio::test]
async fn damage_while_running_is_healed_by_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append(vec![adopted("a")]).await.unwrap();
    // A checkpoint, so that the pages are in the database file and not in the WAL.
    rusqlite::Connection::open(database::file(dir.path())).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    scribble(&database::file(dir.path()), 4096, 4096 * 8);
    // The pages that the connection has read are good; another process changes the file, so that it reads again.
    let mut fault = None;
    for n in 0..3 {
        let _ = rusqlite::Connection::open(database::file(dir.path())).unwrap().execute_batch("PRAGMA user_version = 1");
        if let Err(error) = store.append(vec![adopted(&format!("b{n}"))]).await {
            fault = Some(error);
            break;
        }
    }
    assert!(matches!(fault, Some(StoreFault::Corrupt { .. })), "{fault:?}");
    let memory = Memory { next_effect: 77, ..Memory::default() };
    store.snapshot(&memory).await.unwrap();
    drop(store);
    assert_eq!(open(dir.path()).1, Loaded { memory, problem: None });
}

#[tokio::test]
async fn a_newer_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    rusqlite::Connection::open(database::file(dir.path())).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    let before = fs::read(database::file(dir.path())).unwrap();
    let fault = Store::open(dir.path(), fold).unwrap_err();
    assert!(matches!(fault, StoreFault::Newer { found: 9, known: 1, .. }));
    assert!(fault.to_string().contains("install that version again"), "{fault}");
    assert!(matches!(Reader::open(dir.path()), Err(StoreFault::Newer { .. })));
    assert_eq!(fs::read(database::file(dir.path())).unwrap(), before);
}

#[tokio::test]
async fn entries_of_another_version_are_passed_over_aloud() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append(vec![adopted("a")]).await.unwrap();
    rusqlite::Connection::open(database::file(dir.path()))
        .unwrap()
        .execute_batch(r#"INSERT INTO journal (at, entry) VALUES (1, '{"not-invented-yet":{"x":1}}')"#)
        .unwrap();
    store.append(vec![adopted("b")]).await.unwrap();
    drop(store);
    let (_store, loaded) = open(dir.path());
    assert_eq!(names(&loaded), ["a", "b"]);
    assert!(loaded.problem.unwrap().contains("1 entries of the journal were made by another version"));
}

#[test]
fn every_kind_of_entry_can_be_read_back() {
    let worker = WorkerRef { pid: 7, start: Mono(u64::MAX >> 12), cgroup: "/system.slice/php8.2-fpm.service".to_owned() };
    let argv = || vec!["/usr/bin/depool".to_owned()];
    let identity = StampIdentity { mtime: i64::MAX, digest: "00".to_owned() };
    let seconds = Duration::from_millis(1500);
    let effects = vec![
        Effect::Depool { pool: "p".to_owned(), depool: argv(), repool: argv(), check: argv(), timeout: seconds },
        Effect::Repool { pool: "p".to_owned(), argv: argv(), timeout: seconds },
        Effect::Lend { drop_ins: [("a.service".to_owned(), "[Service]\n".to_owned())].into() },
        Effect::Unlend { units: argv() },
        Effect::Stop { unit: "a.service".to_owned(), within: seconds },
        Effect::Start { unit: "a.service".to_owned() },
        Effect::Restart { unit: "a.service".to_owned(), cut: vec![worker.clone()], within: seconds },
        Effect::Kill { unit: "a.service".to_owned(), invocation: String::new(), cgroup: String::new() },
        Effect::Freeze { workers: vec![worker.clone()] },
    ];
    let outcomes = vec![
        Outcome::Command(CommandEnd::Exited { status: -1, said: "\u{1f}".to_owned() }),
        Outcome::Command(CommandEnd::TimedOut),
        Outcome::Job(JobEnd::Other("x".to_owned())),
        Outcome::Frozen(vec![worker]),
        Outcome::Queued,
        Outcome::Fault(Fault::Unreachable("gone".to_owned())),
    ];
    let targets = Some(["jobrunner".to_owned()].into());
    let mut entries = vec![
        Entry::Started { boot: "b".to_owned(), version: "v".to_owned() },
        Entry::Stamp { path: "/s".to_owned(), identity, deploy: deploy("x"), adopted: true },
        Entry::Adopted { target: "t".to_owned(), id: None },
        Entry::RolloutStarted { id: "r0".to_owned(), deploy: deploy("x"), targets: ["t".to_owned()].into(), by: None, over_hold: false },
        Entry::Cutting {
            unit: "a.service".to_owned(),
            invocation: String::new(),
            asked: Mono::BOOT,
            grace: Some(Duration::from_millis(2500)),
            casualties: vec![casualty(wall_now())],
        },
        Entry::Casualty(casualty(wall_now())),
        Entry::RolloutFinished { result: RolloutResult::Failed, why: Some("because".to_owned()) },
        Entry::HoldSet { reason: "r".to_owned(), by: "root".to_owned(), until: wall_now(), targets: targets.clone(), abort: true },
        Entry::Ordered { by: "root".to_owned(), order: Order::Trigger { force: true, override_hold: false, targets, reason: None } },
        Entry::Ordered { by: "root".to_owned(), order: Order::Hold { reason: "r".to_owned(), span: seconds, targets: None } },
    ];
    entries.extend(effects.into_iter().map(|effect| Entry::Intent { id: EffectId(u64::MAX), effect }));
    entries.extend(outcomes.into_iter().map(|outcome| Entry::Outcome { id: EffectId(0), outcome }));
    for entry in entries {
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).map_err(|error| error.to_string()), Ok(entry), "{text}");
    }
}

#[tokio::test]
async fn a_reader_and_the_daemon_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append(rollout("0", wall_now())).await.unwrap();
    let path = dir.path().to_owned();
    let reading = std::thread::spawn(move || {
        let reader = Reader::open(&path).unwrap();
        (0..200).map(|_| reader.rollouts(100).unwrap().len()).collect::<Vec<_>>()
    });
    for n in 1..50 {
        store.append(rollout(&n.to_string(), wall_now())).await.unwrap();
    }
    let seen = reading.join().unwrap();
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(Reader::open(dir.path()).unwrap().rollouts(100).unwrap().len(), 50);
}

#[tokio::test]
async fn a_hung_disk_hangs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.patience = std::time::Duration::from_millis(50);
    // Another process holds the database locked, which SQLite bears for 2 s: as slow as a disk can be.
    let other = rusqlite::Connection::open(database::file(dir.path())).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(store.append(vec![adopted("a")]).await, Err(StoreFault::Slow(_))));
    assert!(matches!(store.append(vec![adopted("b")]).await, Err(StoreFault::Slow(_))), "the second does not wait at all");
    other.execute_batch("COMMIT").unwrap();
    drop(store);
    assert_eq!(names(&open(dir.path()).1), ["a", "b"]);
}

#[test]
fn no_history_is_said_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("none");
    assert!(matches!(Reader::open(&state), Err(StoreFault::Missing(_))));
    assert!(!state.exists());
}

mod status_json {
    use super::*;
    use crate::core::status::StatusView;

    fn view() -> StatusView {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "written_at": "2026-11-22T22:15:20.123Z",
            "agent": {"version": "0.1.0", "running": true, "pid": 812, "since": "2026-11-22T22:00:00Z"},
            "stamp": {"path": "/srv/stamp", "id": null, "landed_at": null, "error": null},
            "state": "idle", "reached": null, "waiting_for": null, "next": null, "deadline": null, "hold": null, "pools": [],
            "slot": {"state": "none", "holders": []}, "targets": [], "last_rollout": null, "problems": []
        }))
        .unwrap()
    }

    #[test]
    fn it_is_replaced_at_once_and_open_to_all_t41() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        assert!(matches!(read_status(&path), Err(StatusFault::Missing(_))));
        write_status(&path, &view()).unwrap();
        let first = fs::File::open(&path).unwrap();
        write_status(&path, &StatusView { waiting_for: Some("x".to_owned()), ..view() }).unwrap();
        let mut old = String::new();
        (&first).read_to_string(&mut old).unwrap();
        assert_eq!(serde_json::from_str::<StatusView>(&old).unwrap(), view(), "who has it open reads all of the old one");
        assert_eq!(read_status(&path).unwrap().waiting_for.as_deref(), Some("x"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn request_lines_stay_out_of_it_t40() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let rollout = crate::core::status::RolloutView {
            id: "1".to_owned(),
            deploy: "d".to_owned(),
            started_at: Wall(0),
            finished_at: None,
            result: None,
            casualties: vec![casualty(Wall(0))],
            phases: vec![],
            units: vec![],
            flights: vec![],
            reason: None,
            by: None,
            why: None,
        };
        write_status(&path, &StatusView { last_rollout: Some(rollout), ..view() }).unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains("secret"));
    }

    #[test]
    fn newer_ones_and_torn_ones_are_told_apart_t41() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let json = serde_json::to_string(&view()).unwrap();
        fs::write(&path, json.replacen('{', r#"{"invented": {"later": [1]}, "#, 1)).unwrap();
        assert_eq!(read_status(&path).unwrap(), view());
        fs::write(&path, r#"{"schema": 2, "state": {"word": "odd"}}"#).unwrap();
        assert!(matches!(read_status(&path), Err(StatusFault::Newer { schema: 2, .. })));
        fs::write(&path, &json[..json.len() / 2]).unwrap();
        let fault = read_status(&path).unwrap_err().to_string();
        assert!(fault.contains("systemctl restart restart-agent"), "{fault}");
        fs::write(&path, "").unwrap();
        assert!(matches!(read_status(&path), Err(StatusFault::Unreadable { .. })));
    }
}

mod alive_lock {
    use super::*;

    #[test]
    fn it_says_whether_the_daemon_lives() {
        let dir = tempfile::tempdir().unwrap();
        let (run, state) = (dir.path().join("run"), dir.path());
        assert_eq!(probe_alive(&run).unwrap(), Alive::Dead);
        let lock = hold_alive(&run, state).unwrap();
        assert_eq!(probe_alive(&run).unwrap(), Alive::Running);
        assert!(matches!(hold_alive(&run, state), Err(LockFault::Taken)));
        drop(lock);
        assert_eq!(probe_alive(&run).unwrap(), Alive::Dead);
        drop(hold_alive(&run, state).unwrap());
    }

    #[test]
    fn whatever_is_removed_from_run_no_second_daemon_starts_and_it_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let (run, state) = (dir.path().join("run"), dir.path());
        let mut lock = hold_alive(&run, state).unwrap();
        assert!(lock.keep());
        for _ in 0..2 {
            fs::remove_dir_all(&run).unwrap();
            assert!(matches!(hold_alive(&run, state), Err(LockFault::Taken)));
            assert!(!lock.keep() && lock.keep());
            assert_eq!(probe_alive(&run).unwrap(), Alive::Running);
        }
        // Another in its place is as bad as none.
        fs::remove_file(run.join("agent.lock")).unwrap();
        fs::write(run.join("agent.lock"), "").unwrap();
        assert!(!lock.keep());
        assert_eq!(probe_alive(&run).unwrap(), Alive::Running);
        drop(lock);
        drop(hold_alive(&run, state).unwrap());
        // Without a state directory the journal says what is wrong.
        drop(hold_alive(&run, &dir.path().join("missing")).unwrap());
    }

    #[test]
    fn who_may_only_read_it_can_neither_pose_as_the_daemon_nor_keep_it_out() {
        use nix::fcntl::{FcntlArg, fcntl};
        let dir = tempfile::tempdir().unwrap();
        drop(hold_alive(dir.path(), dir.path()).unwrap());
        let posing = fs::File::open(dir.path().join("agent.lock")).unwrap();
        let shared = nix::libc::flock {
            l_type: i16::try_from(nix::libc::F_RDLCK).unwrap(),
            l_whence: i16::try_from(nix::libc::SEEK_SET).unwrap(),
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&posing, FcntlArg::F_OFD_SETLK(&shared)).unwrap();
        assert_eq!(probe_alive(dir.path()).unwrap(), Alive::Dead);
        let _lock = hold_alive(dir.path(), dir.path()).unwrap();
        assert_eq!(probe_alive(dir.path()).unwrap(), Alive::Running);
    }
}
