//! What the opcache holds (facts 5).

use super::finding::{About, Finding, Mend};
use super::lines::{place, setting};
use super::seen::FpmSaid;
use super::warm;
use crate::core::policy::Policy;
use crate::core::seen::OpcacheSeen;

/// Of its size: less is left than one deploy may bring.
const LEAST_FREE: u64 = 10;

pub fn findings(about: &About<'_>, said: &FpmSaid, policy: &Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    let warm = warm(policy, about.fpm.target.as_deref());
    let is_on = |value: Option<&str>| value.is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true"));
    if said.pools.is_empty() || !is_on(said.ini.get("opcache.enable")) {
        return found;
    }
    for (pool, settings) in &said.pools {
        let of = |key: &str| {
            let by = ["php_admin_value", "php_admin_flag", "php_value", "php_flag"];
            by.iter().find_map(|by| settings.get(&format!("{by}[{key}]"))).or_else(|| said.ini.get(key))
        };
        if warm.is_some() && is_on(of("opcache.validate_timestamps")) {
            found.push(ini(
                about,
                said,
                pool,
                "opcache-validates",
                ("opcache.validate_timestamps", "0"),
                "opcache.validate_timestamps is on in a pool that is renewed",
                "while a sync runs, workers mix old and new files in one request; and every request looks at files for nothing",
            ));
        }
        let protection = said.ini.seconds("opcache.file_update_protection");
        let told =
            ["php_admin_value", "php_value"].iter().any(|by| settings.get(&format!("{by}[opcache.file_update_protection]")).is_some());
        if protection > 2 && !told && warm.is_some_and(|warm| !warm.is_empty()) {
            found.push(ini(
                about,
                said,
                pool,
                "opcache-not-warm",
                ("opcache.file_update_protection", "2"),
                &format!("opcache.file_update_protection = {protection}, and the target has warm"),
                "php-fpm does not cache files that are younger: warm comes too early, and the first requests compile everything again",
            ));
        }
    }
    if let Some(seen) = &about.fpm.opcache
        && let Some(what) = nearly_full(seen)
    {
        let value = if seen.full || seen.free < seen.size() / LEAST_FREE {
            ("opcache.memory_consumption", (seen.size() / 524_288).max(128).to_string())
        } else {
            ("opcache.max_accelerated_files", (seen.max_keys.saturating_mul(2)).to_string())
        };
        found.push(ini(
            about,
            said,
            "",
            "opcache-nearly-full",
            (value.0, &value.1),
            &what,
            "what does not fit is compiled at every request; with validate_timestamps = 0 it never gets better before a restart",
        ));
    }
    found
}

fn nearly_full(seen: &OpcacheSeen) -> Option<String> {
    let mib = |bytes: u64| bytes >> 20;
    if seen.full {
        return Some(format!("the opcache is full, at {} MiB", mib(seen.size())));
    }
    if seen.size() > 0 && seen.free < seen.size() / LEAST_FREE {
        return Some(format!("{} MiB of the opcache's {} MiB are free", mib(seen.free), mib(seen.size())));
    }
    let nearly = seen.max_keys > 0 && seen.keys > seen.max_keys / LEAST_FREE * (LEAST_FREE - 1);
    nearly.then(|| format!("{} of the opcache's {} keys are taken", seen.keys, seen.max_keys))
}

/// In the pool's file if it is set there; else in the last file of php.ini's that sets it; else in one of its own.
fn ini(
    about: &About<'_>,
    said: &FpmSaid,
    pool: &str,
    id: &'static str,
    (key, value): (&str, &str),
    what: &str,
    costs: &'static str,
) -> Finding {
    for by in ["php_admin_value", "php_admin_flag", "php_value", "php_flag"] {
        let name = format!("{by}[{key}]");
        if place(&about.lines, pool, &name).is_some_and(|line| line.key == name) {
            return about.setting(id, pool, &name, value, what.to_owned(), costs);
        }
    }
    let set = about.fpm.ini_files.iter().rev().find_map(|(file, text)| {
        let line = text.lines().zip(1..).filter(|(line, _)| setting(line.trim()).is_some_and(|(found, _)| found == key)).last();
        line.map(|(_, number)| (file.clone(), number))
    });
    let own = || {
        let scanned = said.ini.get("Scan this dir for additional .ini files").filter(|dir| dir.starts_with('/'));
        scanned.map_or_else(|| "php.ini".to_owned(), |dir| format!("{dir}/99-opcache.ini"))
    };
    let mend = Mend {
        line: set.as_ref().map(|(_, number)| *number),
        file: set.map_or_else(own, |(file, _)| file),
        section: String::new(),
        write: vec![format!("{key} = {value}")],
        then: about.then(),
    };
    about.with(id, pool, what.to_owned(), costs, mend)
}
