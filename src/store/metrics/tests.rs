use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::core::entry::{Entry, Written};
use crate::store::Store;

/// In the middle of a rollout of a host that has everything; targets and a pool whose names nobody would choose.
fn view() -> StatusView {
    let unit = |state: &str, stale: u32, oldest: Option<&str>, in_flight: Option<u32>, starved: bool| {
        json!({"unit": "a.service", "state": state, "stale_processes": stale, "oldest_start": oldest, "in_flight": in_flight, "why": "",
            "deadline": null, "starved": starved})
    };
    let target = |name: &str, kind: &str, state: &str, units: Vec<serde_json::Value>| json!({"name": name, "kind": kind, "state": state, "why": "", "deadline": null, "looked_at": null, "units": units});
    let value = json!({
        "schema": 1, "written_at": "2026-11-22T22:15:20.123456Z",
        "agent": {"version": "0.1.0", "running": true, "pid": 812, "since": "2026-11-20T08:00:00Z"},
        "stamp": {"path": "/srv/stamp", "id": "secret-id", "landed_at": "2026-11-22T22:15:02Z", "error": "no"},
        "state": "converging", "reached": {"id": "old", "at": "2026-11-21T22:15:17.5Z"},
        "waiting_for": null, "next": null, "deadline": null,
        "hold": {"reason": "why", "by": "who", "until": "2026-11-22T23:00:00Z", "targets": ["jobs"]},
        "begun": {"id": "next", "since": "2026-11-22T22:15:10Z", "until": "2026-11-22T22:30:10Z"},
        "pools": [
            {"name": "web", "state": "depooled", "depooled_by": "agent", "since": "2026-11-22T22:15:04Z"},
            {"name": "a\\b\"c\nd} 1 é", "state": "unknown", "depooled_by": null, "since": null}
        ],
        "slot": {"state": "none", "holders": []},
        "targets": [
            target("web", "php-fpm", "draining", vec![
                unit("draining", 4, Some("2026-11-22T22:00:00Z"), Some(3), false),
                unit("lingering", 2, Some("2026-11-22T21:00:00Z"), Some(2), false),
                unit("fresh", 0, Some("2026-01-01T00:00:00Z"), None, false)
            ]),
            target("jobs", "scheduled", "left", vec![unit("left", 1, None, None, true), unit("left", 1, None, None, false)]),
            target("workers", "service", "fresh", vec![])
        ],
        "last_rollout": {"id": "r1", "deploy": "secret-id", "started_at": "2026-11-22T22:15:03Z", "finished_at": null, "result": null,
            "casualties": [], "phases": [], "units": [], "reason": null, "by": null, "why": null},
        "problems": [format!("{}: line 3", crate::core::status::NOT_TAKEN), "two"],
        "totals": {
            "rollouts": {"converged": 41, "failed": 1},
            "requests": {"web": 7}, "scripts": {"jobs": 2, "gone": 1}, "perhaps": {"web": 1}, "starved": {"jobs": 5},
            "last": {"started_at": "2026-11-21T22:15:02.25Z", "finished_at": "2026-11-21T22:15:17.5Z"}
        }
    });
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_file_in_the_middle_of_a_rollout() {
    insta::assert_snapshot!(metrics(&view()));
}

#[test]
fn a_host_with_nothing_has_no_more_than_it_knows() {
    let value = json!({
        "schema": 1, "written_at": "1969-12-31T23:59:59Z",
        "agent": {"version": "0.1.0", "running": false, "pid": 812, "since": "2026-11-20T08:00:00Z"},
        "stamp": {"path": "", "id": null, "landed_at": null, "error": null},
        "state": "idle", "reached": null, "waiting_for": null, "next": null, "deadline": null, "hold": null, "pools": [],
        "slot": {"state": "none", "holders": []}, "targets": [], "last_rollout": null, "problems": []
    });
    let text = metrics(&serde_json::from_value(value).unwrap());
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(samples.len(), 20, "{text}");
    for sample in [
        "written_timestamp_seconds 0.000000",
        "running 0",
        "state{state=\"idle\"} 1",
        "config_good 1",
        "rollouts_total{result=\"failed\"} 0",
    ] {
        assert!(samples.contains(&format!("{PREFIX}{sample}").as_str()), "no {sample} in {text}");
    }
}

#[test]
fn neither_units_nor_deploys_nor_people_are_named_t40() {
    let text = metrics(&view());
    for name in ["a.service", "secret-id", "why", "who", "line 3"] {
        let told = text.lines().filter(|line| !line.starts_with('#')).find(|line| line.contains(name));
        assert_eq!(told, None);
    }
}

/// What a hostile name would break: the lines, the labels, or another metric.
#[test]
fn every_line_is_one_sample_or_one_comment_t39() {
    let text = metrics(&view());
    assert!(text.ends_with('\n'));
    let mut seen = BTreeSet::new();
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split_once(' ').unwrap().0;
            assert!(seen.insert(family.to_owned()), "{family} is told twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let rest = line.strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
            let value = if let Some(labels) = rest.strip_prefix('{') { after_labels(labels) } else { rest };
            let number = value.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(number.parse::<f64>().is_ok_and(|number| number >= 0.0), "{line}");
            assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned() + " "), "{line} is told twice");
        }
    }
    assert!(text.contains("pool=\"a\\\\b\\\"c\\nd} 1 é\""), "{text}");
}

/// What follows the labels and their brace.
fn after_labels(labels: &str) -> &str {
    let (name, rest) = labels.split_once("=\"").unwrap();
    assert!(name.bytes().all(|c| c.is_ascii_lowercase()), "{labels}");
    let mut escaped = false;
    let end = rest
        .char_indices()
        .find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        })
        .unwrap()
        .0;
    match rest[end + 1..].strip_prefix(',') {
        Some(more) => after_labels(more),
        None => rest[end + 1..].strip_prefix('}').unwrap(),
    }
}

#[test]
fn the_file_is_replaced_and_nothing_is_followed_t39() {
    let dir = tempfile::tempdir().unwrap();
    let (prey, path) = (dir.path().join("journal"), dir.path().join("restart-agent.prom"));
    fs::write(&prey, "precious").unwrap();
    fs::set_permissions(&prey, fs::Permissions::from_mode(0o600)).unwrap();
    // The directory is node-exporter's: whoever runs it may put a link where the new file is made, or where it goes.
    for link in ["restart-agent.prom.new", "restart-agent.prom"] {
        std::os::unix::fs::symlink(&prey, dir.path().join(link)).unwrap();
    }
    assert!(write_metrics(&path, "a 1\n", false));
    assert_eq!(fs::read_to_string(&prey).unwrap(), "precious");
    assert_eq!(fs::metadata(&prey).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    let old = fs::File::open(&path).unwrap();
    assert!(write_metrics(&path, "a 2\n", false));
    assert_eq!(io::read_to_string(old).unwrap(), "a 1\n", "who has it open reads all of the old one");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a 2\n");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn without_its_directory_there_is_no_file_and_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none/restart-agent.prom");
    assert!(write_metrics(&path, "a 1\n", false));
    assert!(!path.parent().unwrap().exists());
    fs::create_dir_all(path.with_extension("prom.new")).unwrap();
    assert!(!write_metrics(&path, "a 1\n", false), "what cannot be written is told");
}

#[tokio::test]
async fn the_store_writes_the_newest_and_what_is_asked_of_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (state, path) = (dir.path().join("state"), dir.path().join("restart-agent.prom"));
    let (store, _) = Store::open(&state, |_, _| {}).unwrap();
    store.write_metrics(&dir.path().join("none/restart-agent.prom"), "nowhere".to_owned(), false);
    store.write_metrics(&path, "first".to_owned(), true);
    assert_eq!(fs::read_to_string(&path).unwrap(), "first", "nobody was to be waited for");
    store.write_metrics(&path, "old".to_owned(), false);
    store.write_metrics(&path, "new".to_owned(), false);
    let entry = Entry::Watching { path: "/srv/stamp".to_owned() };
    store.append(vec![Written { at: Wall(1), entry }]).await.unwrap();
    for n in 0..200 {
        // Whoever writes it, and whatever waits: never an older one over a newer.
        store.write_metrics(&path, format!("{n}"), n % 2 == 0);
    }
    store.write_metrics(&path, "last".to_owned(), false);
    drop(store);
    assert_eq!(fs::read_to_string(&path).unwrap(), "last");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is made for a directory that is missing");
    let (_, loaded) = Store::open(&state, |memory, written| memory.apply(written)).unwrap();
    assert_eq!(loaded.memory.watching.as_deref(), Some("/srv/stamp"));
}

const HEAD: &str = "\
# Metrics

<!-- Made from src/store/metrics/families.rs by `UPDATE=1 cargo test --lib metrics::`; a test compares it. -->

The agent writes `/var/lib/prometheus/node-exporter/restart-agent.prom` if that directory exists, as it does where Debian's prometheus-node-exporter is
installed: its textfile collector reads it. A directory that was made after the agent's start is read-only for it: `systemctl restart restart-agent`.

The file is replaced at once, never changed, at most once a second while something changes, and at least once a minute while the agent lives. So an agent that hangs
or was killed is seen by `restart_agent_written_timestamp_seconds`. The removal of the package removes it.

Counters are in the agent's journal: they go on after its restart and after a reboot. Those of a target begin again when it leaves the configuration and comes back.

Targets, pools and states are labels. Units, scripts, requests and deploys are not: there may be any number of them, and `restart-agent status`, `casualties` and
`history` name them. A host with 5 targets and one pool has some 70 samples.

Alerts to begin with: [alerts.yml](../operations/alerts.yml), each with its paragraph in the [runbook](../operations/runbook.md#alerts).

| metric | type | labels | meaning |
|---|---|---|---|
";

#[test]
fn the_reference_has_every_metric() {
    let mut page = HEAD.to_owned();
    for Family { name, kind, labels, help, .. } in &families::ALL {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        page.push_str(&format!("| `{PREFIX}{name}` | {} | {labels} | {help} |\n", kind.word()));
    }
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&committed, &page).unwrap();
    }
    let there = fs::read_to_string(&committed).unwrap_or_default();
    assert!(there == page, "docs/reference/metrics.md is out of date: UPDATE=1 cargo test --lib metrics::");
}

/// Also the directory in the unit, without which the file could not be written.
#[test]
fn alerts_use_metrics_that_there_are_and_the_runbook_has_each() {
    let read = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let (alerts, runbook) = (read("docs/operations/alerts.yml"), read("docs/operations/runbook.md"));
    let known: BTreeSet<String> = families::ALL.iter().map(|family| format!("{PREFIX}{}", family.name)).collect();
    for text in [&alerts, &runbook] {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with(PREFIX)) {
            assert!(known.contains(word), "there is no {word}");
        }
    }
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        assert!(runbook.contains(&format!("| `{name}` |")), "no row of the runbook is about {name}");
    }
    let writable = format!("ReadWritePaths=-{}", Path::new(METRICS).parent().unwrap().display());
    assert!(read("units/restart-agent.service").lines().any(|line| line == writable), "{writable}");
}
