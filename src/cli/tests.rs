//! Golden pages: what a person sees, word for word.

use std::path::Path;

use clap::Parser;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::output::{Output, Page};
use super::{Cli, Exit, casualties, history, plan, run, status_text, wait};
use crate::core::status::{Casualty, PlanView, RolloutView, State, StatusView, UNUSABLE};
use crate::core::time::{Span, Wall};
use crate::store;

/// 2026-11-22T22:15:20Z, seen from UTC+1.
fn at(width: Option<u16>) -> Page {
    Page { now: Wall(1_795_385_720_000_000), zone: jiff::tz::TimeZone::fixed(jiff::tz::offset(1)), width }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// A converged host with two targets, changed by `change`.
fn view(change: Value) -> StatusView {
    let mut value = json!({
        "schema": 1, "written_at": "2026-11-22T22:15:20Z",
        "agent": {"version": "0.1.0", "running": true, "pid": 812, "since": "2026-11-20T08:00:00Z"},
        "stamp": {"path": "/srv/deploy/stamp", "id": "2026-11-22.3", "landed_at": "2026-11-22T22:15:02Z", "error": null},
        "state": "converged", "reached": {"id": "2026-11-22.3", "at": "2026-11-22T22:15:17Z"},
        "waiting_for": null, "next": null, "deadline": null, "hold": null,
        "pools": [{"name": "jobrunner", "state": "pooled", "depooled_by": null, "since": "2026-11-22T22:15:16Z"}],
        "slot": {"state": "none", "holders": []},
        "targets": [
            {"name": "jobrunner", "kind": "php-fpm", "state": "fresh", "why": "started for this deploy", "deadline": null, "units": [fresh("php8.2-fpm.service")]},
            {"name": "maintenance", "kind": "scheduled", "state": "fresh", "why": "", "deadline": null,
                "units": [fresh("mediawiki_job_purge_parsercache.service"), fresh("mediawiki_job_update_special_pages.service")]}
        ],
        "last_rollout": null, "problems": []
    });
    merge(&mut value, change);
    serde_json::from_value(value).unwrap()
}

fn fresh(unit: &str) -> Value {
    unit_in("fresh", unit, 0, Value::Null, "")
}

fn unit_in(state: &str, unit: &str, stale: u32, in_flight: Value, why: &str) -> Value {
    json!({"unit": unit, "state": state, "stale_processes": stale, "oldest_start": null, "in_flight": in_flight, "why": why, "deadline": null})
}

fn rollout(change: Value) -> Value {
    let mut value = json!({
        "id": "17", "deploy": "2026-11-22.3", "started_at": "2026-11-22T22:15:02.5Z", "finished_at": "2026-11-22T22:15:17.28Z", "result": "converged",
        "casualties": [], "phases": [],
        "units": [
            {"target": "jobrunner", "unit": "php8.2-fpm.service", "what": "renewed", "why": "restarted"},
            {"target": "maintenance", "unit": "mediawiki_job_purge_parsercache.service", "what": "renewed", "why": "stopped and run again"},
            {"target": "maintenance", "unit": "mediawiki_job_update_special_pages.service", "what": "quiet", "why": "its next run is in 3h"}
        ],
        "reason": null, "by": null, "why": null
    });
    merge(&mut value, change);
    value
}

fn cut() -> Value {
    json!([
        {"target": "jobrunner", "unit": "php8.2-fpm.service", "what": "request", "pid": 4711, "name": "/srv/app/rpc/RunSingleJob.php", "ran": "8.4s",
            "ended_by": "SIGTERM", "certain": true, "at": "2026-11-22T22:15:08Z"},
        {"target": "jobrunner", "unit": "php8.2-fpm.service", "what": "request", "pid": 4712, "name": "/srv/app/rpc/RunSingleJob.php", "ran": "6.1s",
            "ended_by": "SIGTERM", "certain": false, "at": "2026-11-22T22:15:08Z"},
        {"target": "maintenance", "unit": "mediawiki_job_purge_parsercache.service", "what": "script", "pid": 4001, "name": "mediawiki_job_purge_parsercache.service",
            "ran": "2h 4m", "ended_by": "SIGKILL", "certain": true, "at": "2026-11-22T22:15:10Z"}
    ])
}

fn page(view: &StatusView) -> String {
    status_text::page(view, None, &at(None))
}

#[test]
fn idle_without_targets() {
    let view = view(json!({"state": "idle", "reached": null, "pools": [], "targets": [], "stamp": {"id": null, "landed_at": null}}));
    assert_snapshot!(page(&view));
}

#[test]
fn a_configuration_that_cannot_be_used() {
    let said =
        format!("{UNUSABLE}: /etc/restart-agent/conf.d/50-jobs.toml:5:1: there is no key `setle` in [stamp]: did you mean `settle`?");
    let change = json!({"reached": null, "pools": [], "targets": [], "stamp": {"id": null, "landed_at": null}, "problems": [said],
        "waiting_for": said, "next": "mend it, then systemctl reload restart-agent"});
    let mut view = view(change);
    for state in [State::Blocked, State::Idle] {
        view.state = state;
        assert_snapshot!("a_configuration_that_cannot_be_used", page(&view));
    }
}

#[test]
fn adopted() {
    let why = "adopted, not renewed since 2026-11-22 22:15:02";
    assert_snapshot!(page(&view(json!({"targets": [
        {"name": "jobrunner", "kind": "php-fpm", "state": "adopted", "why": why, "deadline": null, "units": [unit_in("adopted", "php8.2-fpm.service", 9, json!(2), "")]}
    ]}))));
}

#[test]
fn guarded_opcaches() {
    let fill = json!({"used": 84_000_000, "free": 49_717_728, "wasted": 500_000, "keys": 12_000, "max_keys": 16_229, "since": "2026-11-22T19:13:00Z"});
    let with = |unit: &str, opcache: Value| {
        let mut value = fresh(unit);
        value["opcache"] = opcache;
        value
    };
    let looked_at = "2026-11-22T22:14:59Z";
    assert_snapshot!(page(&view(
        json!({"problems": ["b.service: its opcache is too small for the code: …; raise opcache.memory_consumption"], "targets": [
            {"name": "a", "kind": "php-fpm", "state": "fresh", "why": "fresh for 2026-11-22.3", "deadline": null, "looked_at": null,
             "units": [with("a.service", json!({"looked_at": looked_at, "fill": fill, "note": null}))]},
            {"name": "b", "kind": "php-fpm", "state": "fresh", "why": "fresh for 2026-11-22.3", "deadline": null, "looked_at": null,
             "units": [with("b.service", json!({"looked_at": looked_at, "fill": fill, "note": "too small for the code"}))]},
            {"name": "c", "kind": "php-fpm", "state": "fresh", "why": "fresh for 2026-11-22.3", "deadline": null, "looked_at": null,
             "units": [with("c.service", json!({"looked_at": looked_at, "fill": null, "note": "opcache is off (opcache.enable = 0)"}))]},
        ]})
    )));
}

fn draining() -> Value {
    json!({
        "state": "converging", "reached": {"id": "2026-11-22.2", "at": "2026-11-22T18:01:44Z"},
        "waiting_for": "php8.2-fpm.service: 2 requests in flight", "next": "SIGTERM", "deadline": "2026-11-22T22:15:25Z",
        "pools": [{"name": "jobrunner", "state": "depooled", "depooled_by": "agent", "since": "2026-11-22T22:15:04Z"}],
        "targets": [
            {"name": "jobrunner", "kind": "php-fpm", "state": "draining", "why": "2 requests in flight", "deadline": "2026-11-22T22:15:25Z",
                "units": [unit_in("draining", "php8.2-fpm.service", 9, json!(2), "")]},
            {"name": "maintenance", "kind": "scheduled", "state": "draining", "why": "2 scripts run", "deadline": "2026-11-22T22:15:32Z", "units": [
                unit_in("draining", "mediawiki_job_purge_parsercache.service", 1, Value::Null, "may end by itself"),
                unit_in("left", "mediawiki_job_echo.service", 1, Value::Null, "overdue = \"finish\""),
                fresh("mediawiki_job_a.service"), fresh("mediawiki_job_b.service")
            ]}
        ]
    })
}

#[test]
fn draining_with_a_pool() {
    assert_snapshot!(page(&view(draining())));
}

#[test]
fn draining_on_a_terminal_of_100_columns() {
    assert_snapshot!(status_text::page(&view(draining()), None, &at(Some(100))));
}

#[test]
fn one_target_with_all_its_units() {
    assert_snapshot!(status_text::page(&view(draining()), Some("maintenance"), &at(None)));
}

#[test]
fn draining_in_one_line() {
    assert_snapshot!(status_text::one_line(&view(draining()), &at(None)));
}

#[test]
fn held() {
    assert_snapshot!(page(&view(json!({
        "state": "held", "reached": {"id": "2026-11-22.2", "at": "2026-11-21T18:01:44Z"},
        "hold": {"reason": "dump is running, T12345", "by": "uid 1001 (amy)", "until": "2026-11-22T23:40:00Z", "targets": null},
        "waiting_for": "the end of the hold", "deadline": "2026-11-22T23:40:00Z", "next": "the rollout of 2026-11-22.3",
        "targets": [{"name": "jobrunner", "kind": "php-fpm", "state": "held", "why": "held by uid 1001 (amy)", "deadline": "2026-11-22T23:40:00Z",
            "units": [unit_in("held", "php8.2-fpm.service", 9, json!(14), "")]}]
    }))));
}

#[test]
fn blocked() {
    assert_snapshot!(page(&view(json!({
        "state": "blocked", "reached": {"id": "2026-11-22.2", "at": "2026-11-22T18:01:44Z"},
        "waiting_for": "a proof that jobrunner is depooled", "deadline": "2026-11-22T22:16:20Z", "next": "another try",
        "problems": ["the disk of /var/lib/restart-agent is full: make room there (df -h /var/lib/restart-agent); the journal then goes on by itself"],
        "pools": [
            {"name": "jobrunner", "state": "unknown", "depooled_by": "agent", "since": "2026-11-22T22:15:04Z"},
            {"name": "videoscaler", "state": "depooled", "depooled_by": "other", "since": "2026-11-20T09:00:00Z"}
        ],
        "targets": [{"name": "jobrunner", "kind": "php-fpm", "state": "stale", "why": "its pool does not say that it is depooled", "deadline": null,
            "units": [unit_in("stale", "php8.2-fpm.service", 9, json!(3), "")]}]
    }))));
}

#[test]
fn failed_by_a_broken_configuration_of_php_fpm() {
    let why = "php-fpm -t refuses its configuration: [/etc/php/8.2/fpm/pool.d/www.conf:12] unknown entry 'pm.max_childs'";
    assert_snapshot!(page(&view(json!({
        "state": "failed", "reached": {"id": "2026-11-22.2", "at": "2026-11-22T18:01:44Z"},
        "targets": [{"name": "jobrunner", "kind": "php-fpm", "state": "failed", "why": why, "deadline": null,
            "units": [unit_in("failed", "php8.2-fpm.service", 9, json!(3), why)]}],
        "last_rollout": rollout(json!({"result": "failed", "why": format!("php8.2-fpm.service: {why}"), "units": [
            {"target": "jobrunner", "unit": "php8.2-fpm.service", "what": "failed", "why": why}]}))
    }))));
}

#[test]
fn a_script_that_was_left() {
    assert_snapshot!(page(&view(json!({"targets": [
        {"name": "maintenance", "kind": "scheduled", "state": "left", "why": "1 script runs old code and may", "deadline": null, "units": [
            unit_in("left", "mediawiki_job_update_special_pages.service", 1, Value::Null, "overdue = \"finish\": it ends by itself"), fresh("mediawiki_job_a.service")]}
    ]}))));
}

#[test]
fn the_agent_is_dead() {
    assert_snapshot!(page(&view(json!({"agent": {"running": false}, "written_at": "2026-11-22T22:12:00Z"}))));
}

#[test]
fn the_agent_is_dead_and_owes_something() {
    let owed = ["this host is out of pool default", "kept from being started: dump.service"];
    let text = page(&view(json!({"agent": {"running": false}, "owed": owed})));
    let said: Vec<&str> = text.lines().skip(2).take(4).collect();
    assert_snapshot!(said.join("\n"), @r"
      do now          systemctl start restart-agent; why it ended: journalctl -u restart-agent -n 50
      OWED            this host is out of pool default
      OWED            kept from being started: dump.service
      or              sudo restart-agent daemon --settle-debts gives back what is owed, and begins nothing
    ");
    assert!(!page(&view(json!({"owed": owed}))).contains("OWED"), "it gives that back itself");
}

#[test]
fn converged_with_casualties() {
    assert_snapshot!(page(&view(
        json!({"last_rollout": rollout(json!({"casualties": cut(), "by": "uid 0 (root)", "reason": "opcache is corrupt"}))})
    )));
}

#[test]
fn many_units_and_a_bad_stamp() {
    let units: Vec<Value> = (0..30)
        .map(|n| unit_in("stopping", &format!("queue-worker@{n}.service"), 1, Value::Null, ""))
        .chain([fresh("queue-worker@30.service")])
        .collect();
    assert_snapshot!(page(&view(json!({
        "state": "converging", "stamp": {"error": "/srv/deploy/stamp is not UTF-8", "unknown_targets": ["jobruner"]}, "slot": {"state": "held", "holders": ["mw1", "mw2"]},
        "targets": [{"name": "workers", "kind": "service", "state": "stopping", "why": "", "deadline": null, "units": units}]
    }))));
}

/// Renewed, and not all of it went as it should.
fn noted() -> Value {
    let notes = ["warm-up /w/health-check.php answered 500", "it has no status page, so nobody knows which requests were cut"];
    let why = format!("restarted, and it serves; {}", notes.join("; "));
    rollout(json!({"units": [{"target": "jobrunner", "unit": "php8.2-fpm.service", "what": "renewed", "why": why, "notes": notes}]}))
}

#[test]
fn what_is_to_be_mended_after_a_rollout_that_went_well() {
    assert_snapshot!("notes_in_status", page(&view(json!({"last_rollout": noted()}))));
    assert_snapshot!("notes_in_history", history::page(&[serde_json::from_value(noted()).unwrap()], &at(None)));
}

fn rollouts() -> Vec<RolloutView> {
    let aborted = json!({"id": "16", "deploy": "2026-11-22.2", "started_at": "2026-11-21T22:00:00Z", "finished_at": "2026-11-21T22:03:00Z", "result": "aborted",
        "units": [], "by": "uid 1001 (amy)", "reason": "bad deploy", "why": "given up while draining"});
    let running = json!({"id": "18", "started_at": "2026-11-22T22:15:19Z", "finished_at": null, "result": null, "units": []});
    [rollout(running), rollout(json!({"casualties": cut()})), rollout(aborted)].map(|value| serde_json::from_value(value).unwrap()).to_vec()
}

#[test]
fn history_as_a_table() {
    assert_snapshot!(history::page(&rollouts(), &at(None)));
    assert_snapshot!(history::page(&[], &at(None)), @"No rollout is recorded: a deploy, or restart-agent trigger, makes the first.");
}

#[test]
fn casualties_as_a_table() {
    let mut all: Vec<Casualty> = serde_json::from_value(cut()).unwrap();
    all[0].request = Some("POST /rpc/RunSingleJob.php?sig=abc".to_owned());
    assert_snapshot!("casualties", casualties::text(&all, None, false, &at(None)));
    assert_snapshot!("casualties_with_requests", casualties::text(&all, None, true, &at(None)));
    assert_snapshot!(casualties::text(&[], Some(Span::parse("7d").unwrap()), false, &at(None)), @"Nothing was cut in the last 7d.");
}

fn planned() -> PlanView {
    serde_json::from_value(json!({
        "schema": 1, "at": "2026-11-22T22:15:20Z", "note": "held until 23:40 by uid 1001 (amy): a deploy would wait",
        "units": [
            {"target": "jobrunner", "unit": "php8.2-fpm.service", "what": "depool jobrunner (at most 60s), drain (at most 5s), restart (at most 10s), warm up, repool",
                "deadline_ms": 75000, "casualty_expected": true,
                "processes": [{"pid": 812, "name": "php-fpm: master process", "started_at": "2026-11-20T08:00:00Z"}],
                "in_flight": [{"pid": 815, "name": "/srv/app/rpc/RunSingleJob.php", "ran": "8.4s"}]},
            {"target": "maintenance", "unit": "mediawiki_job_a.service", "what": "drain (at most 30s), SIGTERM, SIGKILL after 20s; then quiet until its next run",
                "deadline_ms": 50000, "casualty_expected": false,
                "processes": (0..12).map(|n| json!({"pid": 900 + n, "name": "php /srv/app/maintenance/run.php", "started_at": "2026-11-22T22:00:00Z"})).collect::<Vec<_>>(),
                "in_flight": []}
        ]
    }))
    .unwrap()
}

#[test]
fn the_plan() {
    assert_snapshot!(plan::page(&planned(), &at(None)));
    assert_snapshot!(plan::page(&PlanView { note: None, units: vec![], ..planned() }, &at(None)), @"A deploy now would restart nothing: no unit of a target runs.");
}

#[test]
fn the_last_line_of_wait() {
    let done: RolloutView = serde_json::from_value(rollout(json!({"casualties": cut()}))).unwrap();
    assert_snapshot!(wait::converged(Some("2026-11-22.3"), Some(&done)), @"converged: deploy 2026-11-22.3, 2 units renewed, 3 casualties, 14.8s");
    assert_snapshot!(wait::converged(Some("other"), Some(&done)), @"converged: deploy other, nothing had to be renewed");
    assert_snapshot!(wait::converged(None, None), @"converged: no deploy has been seen yet, nothing had to be renewed");
    assert_snapshot!(wait::converged(Some(""), None), @"converged: no deploy has been seen yet, nothing had to be renewed");
    assert_snapshot!(wait::converged(Some(""), Some(&done)), @"converged: deploy 2026-11-22.3, 2 units renewed, 3 casualties, 14.8s");
}

/// What a command line prints and how it ends.
pub(super) fn typed(words: &[&str]) -> (Exit, String) {
    let out = Output { terminal: false, typed: words.iter().map(|&word| word.to_owned()).collect(), kept: Some(Default::default()) };
    let exit = run(Cli::try_parse_from([&["restart-agent"], words].concat()).unwrap(), &out);
    (exit, out.kept.unwrap().into_inner())
}

fn put(dir: &Path, view: &StatusView) {
    store::write_status(&dir.join("status.json"), view).unwrap();
}

#[test]
fn status_says_by_its_exit_status_whether_the_agent_runs_t41() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().to_str().unwrap();
    let (exit, text) = typed(&["--run-dir", run_dir, "status"]);
    assert_eq!(exit, Exit::NoState);
    assert!(text.starts_with("! restart-agent: there is no ") && text.contains("systemctl start restart-agent"), "{text}");
    put(dir.path(), &view(json!({})));
    let (exit, text) = typed(&["--run-dir", run_dir, "status"]);
    assert_eq!(exit, Exit::NotRunning);
    assert!(text.starts_with("THE AGENT IS NOT RUNNING."), "{text}");
    let _lock = store::hold_alive(dir.path(), dir.path()).unwrap();
    let (exit, text) = typed(&["status", "--json", "--target", "jobrunner", "--run-dir", run_dir]);
    assert_eq!(exit, Exit::Done);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["agent"]["running"], json["targets"].as_array().unwrap().len()), (&json!(true), 1));
    let (exit, text) = typed(&["status", "--target", "jobruner", "--run-dir", run_dir]);
    assert_eq!(exit, Exit::Usage);
    assert_eq!(text, "! restart-agent: there is no target \"jobruner\": there are jobrunner, maintenance\n");
}

#[test]
fn nothing_from_outside_steers_the_terminal_t40() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &view(json!({"state": "converging", "waiting_for": "\u{1b}]0;owned\u{7}\r"})));
    let (_, text) = typed(&["status", "--run-dir", dir.path().to_str().unwrap()]);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

#[tokio::test]
async fn history_and_casualties_read_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap().to_owned();
    let (exit, text) = typed(&["history", "--state-dir", &state]);
    assert_eq!(exit, Exit::Failed);
    assert!(text.contains("the agent has not run here yet"), "{text}");
    let (store, _) = store::Store::open(dir.path(), |_, _| ()).unwrap();
    let mut casualty: Casualty = serde_json::from_value(cut()[0].clone()).unwrap();
    casualty.request = Some("GET /?secret".to_owned());
    casualty.at = super::output::now();
    let at = casualty.at;
    store.append(vec![crate::core::entry::Written { at, entry: crate::core::entry::Entry::Casualty(casualty) }]).await.unwrap();
    let (exit, text) = typed(&["casualties", "--since", "1h", "--json", "--state-dir", &state]);
    assert_eq!((exit, text.contains("RunSingleJob"), text.contains("secret")), (Exit::Done, true, false));
    let (_, text) = typed(&["casualties", "--requests", "--state-dir", &state]);
    assert!(text.contains("GET /?secret"), "{text}");
    let (exit, text) = typed(&["history", "--json", "--state-dir", &state]);
    assert_eq!((exit, text.as_str()), (Exit::Done, "[]\n"));
}

#[test]
fn a_bad_configuration_is_78_t23() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.toml");
    std::fs::write(&file, "nonsense = 1\n").unwrap();
    let (exit, text) = typed(&["check-config", file.to_str().unwrap()]);
    assert_eq!(exit, Exit::BadConfig);
    assert!(text.contains("x.toml:1:1"), "{text}");
    std::fs::write(&file, "").unwrap();
    assert_eq!(typed(&["check-config", file.to_str().unwrap()]), (Exit::Done, String::new()));
}

#[test]
fn every_help_has_an_example_and_every_command_parses() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
    for command in Cli::command().get_subcommands() {
        let help = command.clone().render_help().to_string();
        assert!(help.contains("Example"), "{help}");
        assert!(help.contains(&format!("restart-agent {}", command.get_name())) || command.get_name() == "daemon", "{help}");
    }
    let error = Cli::try_parse_from(["restart-agent", "hold"]).unwrap_err();
    assert!(error.use_stderr(), "a missing --reason is a usage error");
    for nonsense in [&["hold", "--reason", "x", "--for", "0s"][..], &["hold", "--reason", "x", "--for", "999ms"], &["history", "-n", "0"]] {
        assert!(Cli::try_parse_from([&["restart-agent"], nonsense].concat()).unwrap_err().use_stderr(), "{nonsense:?}");
    }
    assert!(Cli::try_parse_from(["restart-agent", "wait", "--timeout", "soon"]).unwrap_err().to_string().contains("such as 500ms, 5s"));
}
