//! The template unit that each generation is an instance of, and the socket that holds a port: the shipped ones, adapted.

use std::fmt::Write;

use super::Migration;
use crate::core::doctor::lines::unit_lines;

const TEMPLATE: &str = include_str!("../../../units/php-fpm-generation@.service");
const TEMPLATE_OF_A_PORT: &str = include_str!("../../../units/php-fpm-generation-tcp@.service");
const SOCKET: &str = include_str!("../../../units/php-fpm-generation-tcp.socket");
/// What the shipped ones are called.
const SHIPPED: &str = "php-fpm-generation";
const SHIPPED_OF_A_PORT: &str = "php-fpm-generation-tcp";

/// Of the old unit's [Service] beside what the template says itself: a generation is stopped by the agent when nothing of it runs any more, and
/// is never reloaded.
const NOT_KEPT: [&str; 10] = [
    "NotifyAccess",
    "PIDFile",
    "ExecReload",
    "ExecStop",
    "ExecStopPost",
    "ExecStartPost",
    "KillSignal",
    "SendSIGKILL",
    "FinalKillSignal",
    "TimeoutSec",
];
/// Lists, to which the template adds.
const ADDED: [&str; 2] = ["Environment", "RuntimeDirectory"];

impl Migration<'_> {
    pub(super) fn unit(&self) -> String {
        let (template, shipped) = if self.port().is_some() { (TEMPLATE_OF_A_PORT, SHIPPED_OF_A_PORT) } else { (TEMPLATE, SHIPPED) };
        let old = &self.fpm.unit;
        let mut text = format!("# One php-fpm for each deploy, by restart-agent's strategy \"generations\"; from {}.\n", old.unit);
        let mut section = "";
        for line in template.lines().skip_while(|line| !line.starts_with('[')) {
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']);
                let _ = writeln!(text, "{line}");
                self.kept(&mut text, section, template);
            } else if section == "Service" && line.starts_with("ExecStart=") {
                let _ = writeln!(text, "ExecStart={}", self.command());
            } else if !line.starts_with("Documentation=") {
                let _ = writeln!(text, "{}", line.replace(shipped, &self.name));
            }
        }
        text
    }

    /// What the old unit and its drop-ins say, but for what the template says.
    fn kept(&self, text: &mut String, section: &str, template: &str) {
        if section == "Install" {
            return;
        }
        let old = &self.fpm.unit;
        // An instance is not an instance of ours.
        let instance = old.unit.split_once('@').and_then(|(_, rest)| rest.rsplit_once('.')).map_or("", |(instance, _)| instance);
        let says = |key: &str| template.lines().any(|line| line.split_once('=').is_some_and(|(found, _)| found == key));
        for line in unit_lines(old).iter().filter(|line| line.section == section) {
            let kept = if section == "Unit" {
                !matches!(line.key, "Description" | "Documentation" | "StartLimitIntervalSec" | "StartLimitBurst")
            } else {
                ADDED.contains(&line.key) || (!NOT_KEPT.contains(&line.key) && !says(line.key))
            };
            if kept {
                let _ = writeln!(text, "{}={}", line.key, line.value.replace("%i", instance).replace("%I", instance));
            }
        }
    }

    pub(super) fn socket(&self, port: &str) -> String {
        let mut text = String::new();
        for line in SOCKET.lines() {
            let line = line.replace(SHIPPED_OF_A_PORT, &self.name);
            if line.starts_with("ListenStream=") {
                let _ = writeln!(text, "ListenStream={port}");
            } else if let (true, Some(backlog)) = (line.starts_with("Backlog="), self.backlog()) {
                let _ = writeln!(text, "Backlog={backlog}");
            } else {
                let _ = writeln!(text, "{line}");
            }
            if let (true, Some(clients)) = (line.starts_with("Service="), self.settings.get("listen.allowed_clients")) {
                let _ = writeln!(text, "# listen.allowed_clients\nIPAddressDeny=any\nIPAddressAllow={}", clients.replace(',', " "));
            }
        }
        text
    }

    fn backlog(&self) -> Option<&str> {
        self.settings.get("listen.backlog").filter(|backlog| !backlog.starts_with('-'))
    }

    /// The pool's own command line with the other configuration file.
    fn command(&self) -> String {
        let old = self.fpm.unit.exec_start.last().map_or(&[][..], Vec::as_slice);
        let config = self.config_path();
        let mut named = false;
        let mut words: Vec<String> = Vec::new();
        for word in old.iter().filter(|word| !matches!(word.as_str(), "-D" | "--daemonize")) {
            let is_it = *word == self.fpm.root && words.last().is_some_and(|before| matches!(before.as_str(), "-y" | "--fpm-config"));
            named |= is_it;
            words.push(if is_it { config.clone() } else { word.clone() });
        }
        if !words.iter().any(|word| matches!(word.as_str(), "-F" | "--nodaemonize")) {
            words.push("--nodaemonize".to_owned());
        }
        if !named {
            words.extend(["--fpm-config".to_owned(), config]);
        }
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }
}

/// A word of a command line as systemd reads it.
fn quoted(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,$".contains(c);
    if escaped.chars().all(plain) && !escaped.is_empty() { escaped } else { format!("\"{escaped}\"") }
}
