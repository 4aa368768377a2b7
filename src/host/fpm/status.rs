//! The status page of a pool, from its JSON (facts 3a to 3j). Pure.

use serde::Deserialize;

use crate::core::seen::{PoolStatus, WorkerSeen, WorkerState};

/// php-fpm itself cuts a request line at about 518 characters (facts 3h); something else on the socket need not.
const TEXT_MAX: usize = 2048;

#[derive(Deserialize)]
struct Page {
    pool: String,
    #[serde(rename = "process manager", default)]
    manager: String,
    #[serde(rename = "start time")]
    start_time: i64,
    #[serde(rename = "accepted conn")]
    accepted: u64,
    #[serde(rename = "active processes")]
    active: u32,
    #[serde(rename = "idle processes")]
    idle: u32,
    processes: Option<Vec<Process>>,
}

#[derive(Deserialize)]
struct Process {
    pid: u32,
    state: String,
    #[serde(rename = "request duration")]
    duration_us: u64,
    #[serde(rename = "request method", default)]
    method: String,
    #[serde(rename = "request uri", default)]
    uri: String,
    #[serde(default)]
    script: String,
}

/// Reads `?json` or, with `full`, `?json&full`. Fields that this does not know are passed over.
///
/// # Errors
/// A sentence that quotes nothing, when this is not such a page: then nothing is known, least of all that the pool is idle.
/// php 7.4 makes such pages for hostile query strings (facts 3h).
pub fn parse(body: &[u8], full: bool) -> Result<PoolStatus, String> {
    // Bytes that are not UTF-8 come from request lines only and decide nothing.
    let text = String::from_utf8_lossy(body);
    let page: Page = serde_json::from_str(&text).map_err(|error| {
        let what = if error.is_data() { "is not a php-fpm status" } else { "is not valid JSON" };
        format!("the answer {what} (line {}, column {})", error.line(), error.column())
    })?;
    if full && page.processes.is_none() {
        return Err("the answer has no list of processes".to_owned());
    }
    Ok(PoolStatus {
        pool: bounded(page.pool),
        ondemand: page.manager == "ondemand",
        start_time: page.start_time,
        accepted: page.accepted,
        active: page.active,
        idle: page.idle,
        workers: page.processes.filter(|_| full).map(|processes| processes.into_iter().map(worker).collect()),
    })
}

fn worker(process: Process) -> WorkerSeen {
    let state = match process.state.as_str() {
        "Idle" => WorkerState::Idle,
        "Reading headers" => WorkerState::ReadingHeaders,
        // php 8.2 and 8.4; older sources have a plural.
        "Getting request information" | "Getting request informations" => WorkerState::GettingInformation,
        "Running" => WorkerState::Running,
        "Finishing" => WorkerState::Finishing,
        "Ending" => WorkerState::Ending,
        _ => WorkerState::Other(bounded(process.state)),
    };
    WorkerSeen {
        pid: process.pid,
        state,
        duration_us: process.duration_us,
        method: bounded(process.method),
        uri: bounded(process.uri),
        script: bounded(process.script),
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../../tests/fixtures/fpm/", $name)).as_slice()
        };
    }

    #[test]
    fn the_short_status_of_every_version() {
        let short = |page| parse(page, false).unwrap();
        let expected =
            PoolStatus { pool: "www".into(), ondemand: false, start_time: 1_795_385_073, accepted: 24, active: 3, idle: 3, workers: None };
        assert_eq!(short(fixture!("status-8.2.json")), expected);
        assert_eq!(short(fixture!("status_listen-8.2.json")), PoolStatus { active: 2, idle: 4, ..expected });
        for page in [fixture!("status-7.4.json"), fixture!("status-8.4.json"), fixture!("status_listen-8.4.json")] {
            let status = short(page);
            assert_eq!((status.pool.as_str(), status.active + status.idle), ("www", 6));
        }
    }

    #[test]
    fn the_full_status_names_every_worker() {
        for page in [fixture!("status-8.2.full.json"), fixture!("status-8.4.full.json"), fixture!("status-7.4.full.json")] {
            let status = parse(page, true).unwrap();
            let workers = status.workers.unwrap();
            assert_eq!(workers.len(), 6);
            assert_eq!(workers.iter().filter(|worker| worker.state == WorkerState::Running).count(), 3);
            assert_eq!(workers.iter().filter(|worker| worker.state == WorkerState::Idle).count(), 3);
        }
        let status = parse(fixture!("status-8.2.full.json"), true).unwrap();
        let expected = WorkerSeen {
            pid: 1842,
            state: WorkerState::Running,
            duration_us: 312_067,
            method: "GET".into(),
            uri: "/var/www/t.php?id=hold1&ms=2500".into(),
            script: "/var/www/t.php".into(),
        };
        assert_eq!(status.workers.unwrap()[0], expected);
    }

    #[test]
    fn all_busy_and_finishing() {
        for page in [fixture!("status_listen-8.2.allbusy.full.json"), fixture!("status_listen-8.4.allbusy.full.json")] {
            let status = parse(page, true).unwrap();
            assert_eq!((status.active, status.idle), (6, 0));
            assert!(status.workers.unwrap().iter().all(|worker| worker.state == WorkerState::Running && worker.duration_us > 1_900_000));
        }
        let status = parse(fixture!("status_listen-8.4.full.json"), true).unwrap();
        assert_eq!(status.workers.unwrap()[0].state, WorkerState::Finishing);
    }

    #[test]
    fn every_state_that_php_fpm_names() {
        let status = parse(fixture!("status_listen-8.2.states.full.json"), true).unwrap();
        let states: Vec<WorkerState> = status.workers.unwrap().into_iter().map(|worker| worker.state).collect();
        use WorkerState::{Finishing, GettingInformation, Idle, ReadingHeaders, Running};
        assert_eq!(states, [ReadingHeaders, GettingInformation, Idle, Idle, Running, Finishing]);
        let other = String::from_utf8_lossy(fixture!("status-8.2.full.json")).replace("\"state\":\"Idle\"", "\"state\":\"Napping\"");
        let workers = parse(other.as_bytes(), true).unwrap().workers.unwrap();
        assert_eq!(workers[2].state, WorkerState::Other("Napping".into()));
    }

    #[test]
    fn ondemand_is_told() {
        let page = String::from_utf8_lossy(fixture!("status-8.4.json")).replace("\"static\"", "\"ondemand\"");
        assert!(parse(page.as_bytes(), false).unwrap().ondemand);
    }

    #[test]
    fn a_page_that_cannot_be_read_is_an_error_and_quotes_nothing() {
        let hostile = parse(fixture!("status-7.4.INVALID.full.json"), true).unwrap_err();
        assert!(hostile.starts_with("the answer is not valid JSON"), "{hostile}");
        assert!(parse(fixture!("status-8.2.json"), true).is_err(), "full was asked for");
        for wrong in [&b""[..], b"null", b"{}", b"[]", b"{\"pool\":\"www\"", b"<html>", &[0xff; 100], &b"[".repeat(100_000)] {
            assert!(parse(wrong, false).is_err());
        }
        let negative = String::from_utf8_lossy(fixture!("status-8.2.json")).replace("\"active processes\":3", "\"active processes\":-1");
        assert!(parse(negative.as_bytes(), false).is_err());
        let secret = String::from_utf8_lossy(fixture!("status-8.2.json")).replace("\"accepted conn\":24", "\"accepted conn\":\"s3cret\"");
        assert!(!parse(secret.as_bytes(), false).unwrap_err().contains("s3cret"));
    }

    #[test]
    fn request_lines_are_bounded_and_may_be_any_bytes() {
        let page = String::from_utf8_lossy(fixture!("status-8.2.full.json")).replace("id=hold1", &"é".repeat(5000));
        let workers = parse(page.as_bytes(), true).unwrap().workers.unwrap();
        assert!(workers[0].uri.len() <= TEXT_MAX && workers[0].uri.len() > TEXT_MAX - 4);
        let mut page = fixture!("status-8.2.full.json").to_vec();
        let at = page.windows(5).position(|window| window == b"hold1").unwrap();
        page[at] = 0xff;
        assert_eq!(parse(&page, true).unwrap().workers.unwrap().len(), 6);
    }

    proptest! {
        #[test]
        fn a_damaged_page_never_panics(at in 0usize..1900, byte in any::<u8>(), cut in 0usize..1900) {
            let mut page = fixture!("status-8.2.full.json").to_vec();
            page[at] = byte;
            let _ = parse(&page, true);
            page.truncate(cut);
            prop_assert!(parse(&page, true).is_err());
        }
    }
}
