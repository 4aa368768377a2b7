//! What php-fpm's own configuration holds.

use super::finding::{About, Finding};
use super::fpm_rules;
use super::lines::place;
use super::seen::{FpmSaid, Settings};
use crate::core::policy::Policy;

pub fn findings(about: &About<'_>, said: &FpmSaid, policy: &Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    let rules = fpm_rules(policy, about.fpm.target.as_deref());
    let told = rules.is_some_and(|rules| rules.status.is_some());
    for (name, pool) in &said.pools {
        status(about, said, name, pool, told, &mut found);
        if pool.get("ping.path").is_none() {
            found.push(about.setting(
                "fpm-no-ping",
                name,
                "ping.path",
                "/fpm-ping",
                "ping.path is not set".to_owned(),
                "after a restart nothing proves that the pool answers before the host takes requests again",
            ));
        }
        let terminate = pool.seconds("request_terminate_timeout");
        if terminate > 0 && !about.fpm.children.is_empty() {
            found.push(about.setting(
                "fpm-terminate-leaves-children",
                name,
                "request_terminate_timeout",
                "0",
                format!("request_terminate_timeout = {terminate}s, and its requests start {}", about.fpm.children.join(", ")),
                "a request that takes longer is cut, and what it has started runs on, with nobody to wait for it (max_execution_time cuts PHP alone)",
            ));
        }
    }
    if let Some(line) = place(&about.lines, "global", "error_log").filter(|line| line.value.starts_with("/dev/std")) {
        let what = format!("error_log = {}", line.value);
        let costs = "under systemd that cannot be opened: php-fpm does not start";
        found.push(about.setting("fpm-error-log-stderr", "global", "error_log", "syslog", what, costs));
    }
    if said.global.seconds("process_control_timeout") == 0 && !about.fpm.unit.exec_reload.is_empty() {
        found.push(about.setting(
            "fpm-reload-cuts",
            "global",
            "process_control_timeout",
            "10s",
            "process_control_timeout is 0, and the unit has an ExecReload=".to_owned(),
            "systemctl reload cuts every running request at once, as a kill does",
        ));
    }
    found
}

fn status(about: &About<'_>, said: &FpmSaid, name: &str, pool: &Settings, told: bool, found: &mut Vec<Finding>) {
    let socket = || {
        let unit = about.fpm.unit.unit.trim_end_matches(".service");
        format!("/run/php/{unit}-{name}.status.sock")
    };
    if pool.get("pm.status_path").is_none() && !told {
        found.push(about.setting(
            "fpm-no-status-path",
            name,
            "pm.status_path",
            "/fpm-status",
            "pm.status_path is not set".to_owned(),
            "nobody can tell which requests run: a drain waits its whole time, and what is cut is not known",
        ));
        let interval = said.global.seconds("systemd_interval");
        if interval != 1 && said.pools.len() == 1 {
            found.push(about.setting(
                "fpm-slow-status-text",
                "global",
                "systemd_interval",
                "1s",
                format!("systemd_interval is {interval}s, and there is no status page"),
                "what php-fpm tells systemd is all that says whether it is busy, and it is that old",
            ));
        }
    }
    match pool.get("pm.status_listen") {
        None if !told => found.push(about.setting(
            "fpm-no-status-listen",
            name,
            "pm.status_listen",
            &socket(),
            "pm.status_listen is not set".to_owned(),
            "with all workers busy the status page waits in their queue: just then nobody can tell what they do",
        )),
        None => {}
        Some(listen) if !listen.starts_with('/') => found.push(about.setting(
            "fpm-status-open",
            name,
            "pm.status_listen",
            &socket(),
            format!("pm.status_listen = {listen}"),
            "whoever can connect to that port can run any PHP file as the pool's user: the status socket takes scripts, too",
        )),
        Some(listen) => {
            let mode = pool.get("listen.mode").and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0o660);
            // connect(2) wants the right to write.
            if mode & 0o002 != 0 {
                found.push(about.setting(
                    "fpm-status-open",
                    name,
                    "listen.mode",
                    "0660",
                    format!("{listen} has the mode {mode:04o}, for pm.status_listen has that of listen.mode"),
                    "every user of this host can run any PHP file as the pool's user: the status socket takes scripts, too",
                ));
            }
        }
    }
}
