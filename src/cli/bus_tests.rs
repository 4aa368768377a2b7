//! The commands that talk to the agent, against a stand-in for it on a private bus.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};

use super::output::Output;
use super::{Cli, Exit, run};
use crate::bus::client::{NAME, PATH};

/// A dbus-daemon of this test.
struct Bus {
    daemon: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Bus {
    fn new() -> Bus {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("bus.conf");
        std::fs::write(
            &config,
            format!(
                "<busconfig><type>session</type><listen>unix:path={}/bus</listen><policy context=\"default\"><allow send_destination=\"*\"/><allow own=\"*\"/><allow \
                 receive_sender=\"*\"/></policy></busconfig>",
                dir.path().display()
            ),
        )
        .unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--print-address", "--nosyslog"])
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("apt install dbus-daemon");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Bus { daemon, address: address.trim().to_owned(), dir }
    }

    fn stamp(&self) -> PathBuf {
        self.dir.path().join("stamp")
    }

    /// A status.json that names the stamp, with a rollout of `deploy`.
    fn put_status(&self, deploy: &str) {
        let status = json!({
            "schema": 1, "written_at": "2026-11-22T22:15:20Z",
            "agent": {"version": "0.1.0", "running": true, "pid": 1, "since": "2026-11-20T08:00:00Z"},
            "stamp": {"path": self.stamp(), "id": deploy, "landed_at": null, "error": null},
            "state": "converged", "reached": null, "waiting_for": null, "next": null, "deadline": null, "hold": null, "pools": [],
            "slot": {"state": "none", "holders": []}, "targets": [], "problems": [],
            "last_rollout": {"id": "1", "deploy": deploy, "started_at": "2026-11-22T22:15:00Z", "finished_at": "2026-11-22T22:15:12.3Z", "result": "converged",
                "casualties": [], "phases": [], "units": [{"target": "t", "unit": "u.service", "what": "renewed", "why": ""}],
                "reason": null, "by": null, "why": null}
        });
        std::fs::write(self.dir.path().join("status.json"), status.to_string()).unwrap();
    }

    fn typed(&self, words: &[&str]) -> (Exit, String) {
        let out = Output { terminal: false, typed: words.iter().map(|&word| word.to_owned()).collect(), kept: Some(Default::default()) };
        let places = ["restart-agent", "--bus", &self.address, "--run-dir", self.dir.path().to_str().unwrap()];
        let exit = run(Cli::try_parse_from([&places, words].concat()).unwrap(), &out);
        (exit, out.kept.unwrap().into_inner())
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Answers each Wait with the next of these, the last one for ever.
struct Script {
    waits: Mutex<Vec<Value>>,
    asked: Mutex<Vec<String>>,
}

struct Agent(Arc<Script>);

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.wikimedia.RestartAgent1")]
enum Fault {
    #[zbus(error)]
    ZBus(zbus::Error),
    Refused(String),
}

#[zbus::interface(name = "org.wikimedia.RestartAgent1")]
impl Agent {
    fn plan(&self) -> String {
        json!({"schema": 1, "at": "2026-11-22T22:15:20Z", "note": null, "units": []}).to_string()
    }

    fn wait(&self, stamp: u64, deploy: &str, _timeout: u64) -> String {
        self.0.asked.lock().unwrap().push(format!("{stamp} {deploy}"));
        let mut waits = self.0.waits.lock().unwrap();
        if waits.len() > 1 { waits.remove(0).to_string() } else { waits[0].to_string() }
    }

    fn trigger(&self, force: bool, override_hold: bool, targets: Vec<String>, reason: &str) -> Result<String, Fault> {
        if reason.is_empty() {
            return Err(Fault::Refused("nothing to do: write targets".to_owned()));
        }
        Ok(format!("accepted: {force} {override_hold} {targets:?} {reason}"))
    }

    fn hold(&self, reason: &str, span: u64, targets: Vec<String>) -> zbus::fdo::Result<String> {
        if reason.contains("T1") {
            return Err(zbus::fdo::Error::AccessDenied("no".to_owned()));
        }
        Ok(format!("{reason} {span} {targets:?}"))
    }

    fn release(&self) -> zbus::fdo::Result<String> {
        Err(zbus::fdo::Error::AccessDenied("no".to_owned()))
    }

    fn abort(&self, reason: &str) -> String {
        format!("abort {reason}")
    }
}

/// The stand-in, on a thread with a runtime of its own, for as long as it is kept.
struct Serving {
    script: Arc<Script>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Serving {
    fn new(bus: &Bus, waits: Vec<Value>) -> Serving {
        let script = Arc::new(Script { waits: Mutex::new(waits), asked: Mutex::default() });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (address, agent) = (bus.address.clone(), Agent(Arc::clone(&script)));
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let _connection =
                    zbus::connection::Builder::address(address.as_str()).serve_at(PATH, agent).name(NAME).build().await.unwrap();
                ready.send(()).unwrap();
                let _ = stopped.await;
            });
        });
        is_ready.recv().unwrap();
        Serving { script, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

#[test]
fn orders_arrive_and_their_answers_are_printed() {
    let bus = Bus::new();
    let _serving = Serving::new(&bus, vec![]);
    let accepted = "accepted: true false [\"a\", \"b\"] why\n";
    assert_eq!(bus.typed(&["trigger", "--force", "--target", "a", "--target", "b", "--reason", "why"]), (Exit::Done, accepted.to_owned()));
    assert_eq!(bus.typed(&["trigger"]), (Exit::Failed, "! restart-agent: refused: nothing to do: write targets\n".to_owned()));
    assert_eq!(bus.typed(&["hold", "--reason", "r", "--for", "2h"]), (Exit::Done, "r 7200000000 []\n".to_owned()));
    assert_eq!(bus.typed(&["hold", "--reason", " "]).0, Exit::Usage);
    assert_eq!(bus.typed(&["release"]), (Exit::NeedsRoot, "! restart-agent: this needs root: sudo restart-agent release\n".to_owned()));
    let said = "! restart-agent: this needs root: sudo restart-agent hold --reason 'it'\\''s a dump, T1' --for 2h\n";
    assert_eq!(bus.typed(&["hold", "--reason", "it's a dump, T1", "--for", "2h"]), (Exit::NeedsRoot, said.to_owned()));
    assert_eq!(bus.typed(&["abort", "--reason", "x"]), (Exit::Done, "abort x\n".to_owned()));
    assert_eq!(bus.typed(&["plan"]), (Exit::Done, "A deploy now would restart nothing: no unit of a target runs.\n".to_owned()));
}

#[test]
fn without_an_agent_or_a_bus_the_exit_status_is_3() {
    let bus = Bus::new();
    let said = "! restart-agent: the agent is not running: systemctl start restart-agent\n".to_owned();
    assert_eq!(bus.typed(&["plan"]), (Exit::NotRunning, said.clone()));
    let mut gone = Bus::new();
    gone.address = "unix:path=/nonexistent/bus".to_owned();
    assert_eq!(gone.typed(&["release"]), (Exit::NotRunning, said));
}

#[test]
fn wait_names_the_stamp_that_is_there_now() {
    use std::os::unix::fs::MetadataExt;
    let bus = Bus::new();
    bus.put_status("d1");
    std::fs::write(bus.stamp(), "d1").unwrap();
    let ctime = std::fs::metadata(bus.stamp()).map(|file| file.ctime() * 1_000_000 + file.ctime_nsec() / 1000).unwrap();
    let serving = Serving::new(
        &bus,
        vec![json!({"result": "timeout", "why": "draining", "id": "d1"}), json!({"result": "converged", "why": null, "id": "d1"})],
    );
    let (exit, text) = bus.typed(&["wait"]);
    assert_eq!((exit, text.as_str()), (Exit::Done, "converged: deploy d1, 1 unit renewed, 0 casualties, 12.3s\n"));
    assert_eq!(*serving.script.asked.lock().unwrap(), [format!("{ctime} "), format!("{ctime} ")]);
    drop(serving);
    let serving = Serving::new(&bus, vec![json!({"result": "superseded", "id": "d2"}), json!({"result": "converged", "id": "d2"})]);
    assert_eq!(bus.typed(&["wait", "--deploy", "d1"]).1, "converged: deploy d2, nothing had to be renewed\n");
    assert_eq!(serving.script.asked.lock().unwrap()[0], "0 d1");
}

#[test]
fn wait_says_why_not_t36() {
    let bus = Bus::new();
    let serving = Serving::new(&bus, vec![json!({"result": "failed", "why": "php-fpm -t refuses its configuration", "id": "d1"})]);
    assert_eq!(
        bus.typed(&["wait"]),
        (Exit::Failed, "! restart-agent: failed: deploy d1: php-fpm -t refuses its configuration\n".to_owned())
    );
    drop(serving);
    let serving = Serving::new(&bus, vec![json!({"result": "timeout", "why": "2 requests in flight", "id": "d1"})]);
    let (exit, text) = bus.typed(&["wait", "--timeout", "300ms"]);
    assert_eq!(exit, Exit::TimedOut);
    assert_eq!(
        text,
        "! restart-agent: timed out after 300ms: 2 requests in flight; it goes on without this command: restart-agent status\n"
    );
    assert_eq!(bus.typed(&["wait", "--timeout", "0s"]).0, Exit::TimedOut);
    drop(serving);
    let serving = Serving::new(&bus, vec![json!({"result": "converged", "why": null, "id": "d1"})]);
    assert_eq!(bus.typed(&["wait", "--timeout", "0s"]).0, Exit::Done, "it is told how things stand");
    drop(serving);
    assert_eq!(bus.typed(&["wait", "--timeout", "0s"]).0, Exit::NotRunning);
    let began = Instant::now();
    assert_eq!(bus.typed(&["wait"]).0, Exit::NotRunning);
    assert!(began.elapsed() >= Duration::from_secs(5), "a restart of the agent takes a moment");
}

#[test]
fn wait_outlives_a_restart_of_the_agent_t36() {
    let bus = Bus::new();
    bus.put_status("d1");
    let first = Serving::new(&bus, vec![json!({"result": "timeout", "why": "draining", "id": "d1"})]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| bus.typed(&["wait", "--timeout", "60s"]));
        until(|| first.script.asked.lock().unwrap().len() > 1);
        drop(first);
        let _second = Serving::new(&bus, vec![json!({"result": "converged", "id": "d1"})]);
        assert_eq!(waiting.join().unwrap().0, Exit::Done);
    });
}

fn until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "it never happened");
        std::thread::yield_now();
    }
}
