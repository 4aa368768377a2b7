//! What the package's script says of an opcache, from its JSON (facts 5c, 5d). Pure.

use serde::Deserialize;

use crate::core::seen::OpcacheSeen;
use crate::core::time::Wall;

/// Ships with the package.
pub(super) const SCRIPT: &str = "/usr/share/restart-agent/opcache.php";
/// The script answers nobody else: what a web server passes on of a visitor begins with `HTTP_`.
pub(super) const MARK: (&str, &str) = ("RESTART_AGENT_ASKS", "opcache");

#[derive(Deserialize)]
struct Said {
    status: Status,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Status {
    Of(Box<Figures>),
    /// `false`: there is none to be had.
    Not(No),
}

#[derive(Deserialize, PartialEq)]
#[serde(transparent)]
struct No(bool);

#[derive(Deserialize)]
struct Figures {
    opcache_enabled: bool,
    #[serde(default)]
    cache_full: bool,
    #[serde(default)]
    file_cache_only: bool,
    #[serde(default)]
    restart_pending: bool,
    #[serde(default)]
    restart_in_progress: bool,
    memory_usage: Option<Memory>,
    opcache_statistics: Option<Statistics>,
}

#[derive(Deserialize)]
struct Memory {
    used_memory: u64,
    free_memory: u64,
    wasted_memory: u64,
}

#[derive(Deserialize)]
struct Statistics {
    num_cached_keys: u64,
    max_cached_keys: u64,
    start_time: i64,
    /// Of its own restarts, by what PHP calls oom, hash or manual; 0: none.
    #[serde(default)]
    last_restart_time: i64,
}

/// php-fpm may hold the script of the package before this one: what it says may only grow.
///
/// Reads the last line that begins with a brace: a pool's `auto_prepend_file` may have said something before. Fields that this does not know are
/// passed over.
///
/// # Errors
/// A sentence that quotes nothing: there is no opcache, it may not be asked, or this is no such answer. Then nothing is known, least of all that
/// it is full.
pub fn parse(body: &[u8]) -> Result<OpcacheSeen, String> {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().rev().find(|line| line.starts_with('{')).ok_or("the answer is not what opcache.php says")?;
    let said: Said = serde_json::from_str(line).map_err(|error| {
        let what = if error.is_data() { "is not what opcache.php says" } else { "is not valid JSON" };
        format!("the answer {what} (column {})", error.column())
    })?;
    let figures = match said.status {
        Status::Of(figures) => figures,
        Status::Not(No(_)) => return Err(refused(&said.why)),
    };
    if figures.file_cache_only {
        return Err("it caches in files only (opcache.file_cache_only)".to_owned());
    }
    let restarting = figures.restart_pending || figures.restart_in_progress;
    if !figures.opcache_enabled && !restarting {
        return Err(refused("off"));
    }
    let (Some(memory), Some(statistics)) = (figures.memory_usage, figures.opcache_statistics) else {
        return Err("the answer has no figures".to_owned());
    };
    let seconds = statistics.start_time.max(statistics.last_restart_time);
    Ok(OpcacheSeen {
        used: memory.used_memory,
        free: memory.free_memory,
        wasted: memory.wasted_memory,
        keys: statistics.num_cached_keys,
        max_keys: statistics.max_cached_keys,
        full: figures.cache_full,
        restarting,
        since: Wall(seconds.saturating_mul(1_000_000)),
    })
}

fn refused(why: &str) -> String {
    match why {
        "no-opcache" => "this php-fpm has no opcache, or opcache_get_status is in disable_functions".to_owned(),
        "restricted" => format!("opcache.restrict_api does not let {SCRIPT} ask: leave it empty"),
        _ => "opcache is off (opcache.enable = 0)".to_owned(),
    }
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
    fn the_figures_of_every_version() {
        let expected = OpcacheSeen {
            used: 8_587_744,
            free: 8_189_472,
            wasted: 0,
            keys: 3,
            max_keys: 3907,
            full: false,
            restarting: false,
            since: Wall(1_795_385_317_000_000),
        };
        assert_eq!(parse(fixture!("opcache-8.2.json")), Ok(expected));
        for page in [fixture!("opcache-7.4.json"), fixture!("opcache-8.4.json")] {
            let seen = parse(page).unwrap();
            assert_eq!((seen.size(), seen.keys, seen.full), (16 << 20, 3, false));
        }
        for page in [fixture!("opcache-full-7.4.json"), fixture!("opcache-full-8.2.json"), fixture!("opcache-full-8.4.json")] {
            let seen = parse(page).unwrap();
            assert!(seen.full && seen.free < 22_000 && seen.keys > 270, "{seen:?}");
        }
    }

    #[test]
    fn its_own_restart_empties_it() {
        let page = String::from_utf8_lossy(fixture!("opcache-8.2.json"));
        let later = page.replace("\"last_restart_time\":0", "\"last_restart_time\":1795390000");
        assert_eq!(parse(later.as_bytes()).unwrap().since, Wall(1_795_390_000_000_000));
        let pending = page.replace("\"restart_pending\":false", "\"restart_pending\":true").replace("enabled\":true", "enabled\":false");
        assert!(parse(pending.as_bytes()).unwrap().restarting);
    }

    #[test]
    fn what_is_no_figure_is_a_sentence() {
        let why = |body: &str| parse(body.as_bytes()).unwrap_err();
        assert!(why(r#"{"status":false,"why":"restricted"}"#).contains("opcache.restrict_api"));
        assert!(why(r#"{"status":false,"why":"no-opcache"}"#).contains("no opcache"));
        assert!(why(r#"{"status":false,"why":"off"}"#).contains("opcache.enable"));
        assert!(why(r#"{"status":{"opcache_enabled":false,"cache_full":true}}"#).contains("opcache.enable"));
        assert!(why(r#"{"status":{"opcache_enabled":true,"file_cache_only":true}}"#).contains("file_cache_only"));
        assert!(why(r#"{"status":{"opcache_enabled":true}}"#).contains("no figures"));
        for other in ["", "for restart-agent only", "null", "{}", "[]", "{\"status\":", "{\"status\":\"s3cret\"}", "<html>"] {
            assert!(!why(other).contains("s3cret"), "{other}");
        }
        let negative = String::from_utf8_lossy(fixture!("opcache-8.2.json")).replace("\"free_memory\":8189472", "\"free_memory\":-1");
        assert!(parse(negative.as_bytes()).is_err());
    }

    #[test]
    fn what_was_said_before_it_does_not_matter() {
        let page = [b"Warning: x {\n{\"tip\":1}\n", fixture!("opcache-8.2.json"), b"\n"].concat();
        assert!(parse(&page).is_ok());
    }

    proptest! {
        #[test]
        fn a_damaged_answer_never_panics(at in 0usize..700, byte in any::<u8>(), cut in 0usize..700) {
            let mut page = fixture!("opcache-full-8.2.json").to_vec();
            page[at] = byte;
            let _ = parse(&page);
            page.truncate(cut);
            prop_assert!(parse(&page).is_err());
        }
    }
}
