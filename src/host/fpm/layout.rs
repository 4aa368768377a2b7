//! What `php-fpm -tt` prints about a configuration (facts M11). Pure.

use crate::core::deploy::printable;
use crate::core::doctor::seen::{FpmSaid, Settings};
use crate::core::seen::{FpmLayout, PoolLayout};

/// php-fpm's default for `systemd_interval`.
const SYSTEMD_INTERVAL_MS: u64 = 10_000;
/// PHP's default for `opcache.file_update_protection` (facts 5e).
const FILE_UPDATE_PROTECTION_MS: u64 = 2_000;

/// Reads the output of `php-fpm -tt`: lines `[date] NOTICE: [pool]` and `[date] NOTICE: \tkey = value`; with
/// `error_log = syslog` they begin with `[NOTICE] ` (php 8.2). It shows `$pool`, `${VAR}` and relative paths expanded, and
/// `undefined` for what is not set.
///
/// `opcache.file_update_protection` is not among what `-tt` prints, unless a pool sets it by `php_value` or `php_admin_value`.
/// If the text also holds the line of `php-fpm -i` ([`super::invocation::info`]) that counts as well; otherwise it is
/// PHP's default of 2 s. The greatest value wins.
///
/// # Errors
/// What php-fpm says is wrong with its configuration, or that it said nothing: `log_level` = warning, error or alert hides the
/// whole output unless the wrapper of [`super::invocation::inspect`] was used (php 8.2).
pub fn parse(output: &str) -> Result<FpmLayout, String> {
    let mut pools: Vec<PoolLayout> = Vec::new();
    let mut systemd_interval_ms = SYSTEMD_INTERVAL_MS;
    let mut protection: Option<u64> = None;
    let mut global = false;
    let mut errors = Vec::new();
    for line in output.lines() {
        if let Some(error) = ["] ERROR: ", "] ALERT: ", "[ERROR] ", "[ALERT] "].iter().find_map(|mark| after(line, mark)) {
            errors.push(error.trim());
            continue;
        }
        if let Some(value) = line.strip_prefix("opcache.file_update_protection => ") {
            protection = protection.max(value.split_whitespace().next().and_then(seconds_ms));
        }
        let Some(said) = after(line, "] NOTICE: ").or_else(|| after(line, "[NOTICE] ")) else { continue };
        if let Some(section) = said.strip_prefix('[').and_then(|rest| rest.trim_end().strip_suffix(']')) {
            global = section == "global";
            if !global {
                pools.push(PoolLayout { name: section.to_owned(), ping_response: "pong".to_owned(), ..PoolLayout::default() });
            }
            continue;
        }
        let Some((key, value)) = said.strip_prefix('\t').and_then(|setting| setting.split_once(" = ")) else { continue };
        let value = Some(value.trim()).filter(|value| !value.is_empty() && *value != "undefined");
        match (global, pools.last_mut(), key.trim()) {
            (true, _, "systemd_interval") => systemd_interval_ms = value.and_then(seconds_ms).unwrap_or(SYSTEMD_INTERVAL_MS),
            (false, Some(pool), key) => match (key, value.map(str::to_owned)) {
                ("listen", Some(value)) => pool.listen = value,
                ("pm.status_listen", value) => pool.status_listen = value,
                ("pm.status_path", value) => pool.status_path = value,
                ("ping.path", value) => pool.ping_path = value,
                ("ping.response", Some(value)) => pool.ping_response = value,
                ("php_value[opcache.file_update_protection]" | "php_admin_value[opcache.file_update_protection]", Some(value)) => {
                    protection = protection.max(seconds_ms(&value));
                }
                _ => {}
            },
            _ => {}
        }
    }
    if !errors.is_empty() {
        return Err(format!("php-fpm does not accept its configuration: {}", printable(&errors.join("; "), 500)));
    }
    if pools.is_empty() {
        return Err("php-fpm -tt says nothing about its pools".to_owned());
    }
    Ok(FpmLayout { pools, systemd_interval_ms, file_update_protection_ms: protection.unwrap_or(FILE_UPDATE_PROTECTION_MS) })
}

/// Reads all settings of the output of `php-fpm -tt`, as [`parse`] does.
#[must_use]
pub fn settings(output: &str) -> FpmSaid {
    let mut said = FpmSaid::default();
    let mut global = false;
    for line in output.lines() {
        let Some(text) = after(line, "] NOTICE: ").or_else(|| after(line, "[NOTICE] ")) else { continue };
        if let Some(section) = text.strip_prefix('[').and_then(|rest| rest.trim_end().strip_suffix(']')) {
            global = section == "global";
            if !global {
                said.pools.push((section.to_owned(), Settings::default()));
            }
        } else if let Some((key, value)) = text.strip_prefix('\t').and_then(|setting| setting.split_once(" = ")) {
            let value = if value.trim() == "undefined" { "" } else { value.trim() };
            let of = if global { Some(&mut said.global) } else { said.pools.last_mut().map(|(_, pool)| pool) };
            if let Some(of) = of {
                of.0.insert(key.trim().to_owned(), value.to_owned());
            }
        }
    }
    said
}

/// Reads what is of use here of the output of `php-fpm -i`, lines `NAME => LOCAL => MASTER` or `NAME => VALUE`: the rest holds secrets.
#[must_use]
pub fn ini(output: &str) -> Settings {
    let wanted = |name: &str| name.starts_with("opcache.") || name.starts_with("Scan this dir") || name.starts_with("Loaded Configuration");
    let lines = output.lines().filter_map(|line| line.split_once(" => ")).filter(|(name, _)| wanted(name));
    Settings(
        lines
            .map(|(name, values)| (name.to_owned(), values.rsplit(" => ").next().unwrap_or_default().trim().to_owned()))
            .map(|(name, value)| (name, if matches!(value.as_str(), "no value" | "(none)") { String::new() } else { value }))
            .collect(),
    )
}

/// A line of its log as a sentence: without the `[23-Nov-2026 03:55:44] ` before it.
#[must_use]
pub fn without_time(line: &str) -> &str {
    let time = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-: .".contains(c))
    };
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((before, sentence)) if time(before) => sentence,
        _ => line,
    }
}

fn after<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.split_once(mark).map(|(_, rest)| rest)
}

/// `10s` or `10`, in milliseconds.
fn seconds_ms(text: &str) -> Option<u64> {
    text.strip_suffix('s').unwrap_or(text).parse::<u64>().ok()?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_settings_are_read_as_they_are() {
        let said = settings(include_str!("../../../tests/fixtures/fpm/tt-8.2-two-pools.txt"));
        assert_eq!(said.global.seconds("process_control_timeout"), 10);
        assert_eq!(said.pools.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["www", "api"]);
        assert_eq!(said.pools[0].1.get("pm.status_listen"), Some("/srv/fpm/www-g7.status.sock"));
        assert_eq!(said.pools[1].1.get("listen"), Some("9100"));
        assert_eq!((said.pools[1].1.get("ping.path"), said.pools[1].1.0.contains_key("ping.path")), (None, true));
        let ini =
            ini("PHP Version => 8.2.29\nSECRET => x\nopcache.enable => On => On\nopcache.blacklist_filename => no value => no value\n\
             Scan this dir for additional .ini files => /etc/php/8.2/fpm/conf.d\n");
        assert_eq!((ini.get("opcache.enable"), ini.get("opcache.blacklist_filename"), ini.0.len()), (Some("On"), None, 3));
    }

    #[test]
    fn a_sentence_has_no_time_before_it() {
        let broken = "ERROR: [/etc/php/8.2/fpm/pool.d/zz-broken.conf:3] unknown entry 'nonsense'";
        assert_eq!(without_time(&format!("[23-Nov-2026 03:55:44] {broken}")), broken);
        assert_eq!(without_time(&format!("[23-Nov-2026 03:55:44.123456] {broken}")), broken);
        for plain in [broken, "[ERROR] x", "[www] y", "[] z", "[23-Nov", ""] {
            assert_eq!(without_time(plain), plain);
        }
    }

    macro_rules! fixture {
        ($name:literal) => {
            include_str!(concat!("../../../tests/fixtures/fpm/", $name))
        };
    }

    #[test]
    fn debians_default_of_both_versions() {
        for (output, listen) in
            [(fixture!("tt-8.2-debian.txt"), "/run/php/php8.2-fpm.sock"), (fixture!("tt-8.4-debian.txt"), "/run/php/php8.4-fpm.sock")]
        {
            let expected = PoolLayout { name: "www".into(), listen: listen.into(), ping_response: "pong".into(), ..PoolLayout::default() };
            assert_eq!(
                parse(output),
                Ok(FpmLayout { pools: vec![expected], systemd_interval_ms: 10_000, file_update_protection_ms: 2000 })
            );
        }
    }

    #[test]
    fn several_pools_with_everything_set() {
        for output in [fixture!("tt-8.2-two-pools.txt"), fixture!("tt-8.4-two-pools.txt"), fixture!("tt-8.2-syslog.txt")] {
            let layout = parse(output).unwrap();
            let www = PoolLayout {
                name: "www".into(),
                listen: "/srv/fpm/run/www.sock".into(),
                status_listen: Some("/srv/fpm/www-g7.status.sock".into()),
                status_path: Some("/fpm-status".into()),
                ping_path: Some("/ping".into()),
                ping_response: "pong = yes; ok".into(),
            };
            let api = PoolLayout {
                name: "api".into(),
                listen: "9100".into(),
                status_path: Some("/st".into()),
                ping_response: "pong".into(),
                ..PoolLayout::default()
            };
            assert_eq!(layout, FpmLayout { pools: vec![www, api], systemd_interval_ms: 1000, file_update_protection_ms: 5000 });
        }
    }

    #[test]
    fn a_broken_configuration_says_what_is_wrong() {
        let error = parse(fixture!("tt-8.2-broken.txt")).unwrap_err();
        assert!(error.contains("pm.max_children") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn silence_is_an_error() {
        assert!(parse("").unwrap_err().contains("nothing"));
        assert!(parse("[22-Nov-2026 23:50:13] NOTICE: configuration file /a test is successful\n").is_err());
    }

    #[test]
    fn the_line_of_php_fpm_i_counts() {
        let output = format!("opcache.file_update_protection => 7 => 7\n{}", fixture!("tt-8.2-debian.txt"));
        assert_eq!(parse(&output).unwrap().file_update_protection_ms, 7000);
        let output = format!("opcache.file_update_protection => 0 => 0\n{}", fixture!("tt-8.2-debian.txt"));
        assert_eq!(parse(&output).unwrap().file_update_protection_ms, 0);
    }

    #[test]
    fn ticks_that_are_off() {
        let output = fixture!("tt-8.2-debian.txt").replace("systemd_interval = 10s", "systemd_interval = 0s");
        assert_eq!(parse(&output).unwrap().systemd_interval_ms, 0);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(lines in proptest::collection::vec("(\\[x\\] NOTICE: |\\[NOTICE\\] )?(\\[[a-z]{0,3}\\]|\t[a-z.]{0,9} ?=? ?.{0,9})", 0..30)) {
            let _ = parse(&lines.join("\n"));
        }
    }
}
