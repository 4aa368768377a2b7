//! The template unit that each generation is an instance of, and the socket that holds a port.

use std::fmt::Write;

use super::Migration;
use crate::core::doctor::lines::unit_lines;

/// Of [Service]: what the template says itself. A generation is stopped by the agent, when nothing of it runs any more; it is never reloaded.
const OWN: [&str; 16] = [
    "Type",
    "NotifyAccess",
    "PIDFile",
    "ExecStart",
    "ExecStartPost",
    "ExecReload",
    "ExecStop",
    "ExecStopPost",
    "KillMode",
    "KillSignal",
    "SendSIGKILL",
    "FinalKillSignal",
    "TimeoutSec",
    "TimeoutStopSec",
    "RuntimeDirectoryPreserve",
    "Sockets",
];

impl Migration<'_> {
    pub(super) fn unit(&self) -> String {
        let old = &self.fpm.unit;
        let lines = unit_lines(old);
        // An instance is not an instance of ours.
        let instance = old.unit.split_once('@').and_then(|(_, rest)| rest.rsplit_once('.')).map_or("", |(instance, _)| instance);
        let kept = |text: &mut String, section: &str, not: &dyn Fn(&str) -> bool| {
            for line in lines.iter().filter(|line| line.section == section && !not(line.key)) {
                let value = line.value.replace("%i", instance).replace("%I", instance);
                let _ = writeln!(text, "{}={value}", line.key);
            }
        };
        let name = &self.name;
        let mut text = format!(
            "# One generation of php-fpm for each deploy, from {}. restart-agent starts and stops them; at boot the\n\
             # instance \"boot\" comes up by itself.\n\n[Unit]\nDescription=php-fpm of pool {}, generation %i\n",
            old.unit, self.pool
        );
        kept(&mut text, "Unit", &|key| key == "Description");
        if self.port().is_some() {
            let socket = self.socket_unit();
            let _ = writeln!(text, "Requires={socket}\nAfter={socket}");
        }
        text.push_str("\n[Service]\n");
        kept(&mut text, "Service", &|key| OWN.contains(&key));
        let _ = write!(
            text,
            "Type=notify\n\
             Environment=GENERATION=%i\n\
             # All generations have their sockets in there.\n\
             RuntimeDirectory=php/{name}\n\
             RuntimeDirectoryPreserve=yes\n"
        );
        if self.port().is_some() {
            let _ = write!(
                text,
                "# The port is the socket unit's: every generation inherits it. No file has the name by which php-fpm finds it.\n\
                 Sockets={}\n\
                 Environment=FPM_SOCKETS={}=3\n",
                self.socket_unit(),
                self.inherited()
            );
        }
        let _ = writeln!(text, "ExecStart={}", self.command());
        if self.port().is_none() {
            let current = self.current();
            let _ = write!(
                text,
                "# At boot nobody else does it; whatever serves is left alone.\n\
                 ExecStartPost=/bin/sh -c 'test %i != boot || test -e {current} || {{ ln -sfn boot.sock {current}.boot && mv -fT {current}.boot {current}; }}'\n"
            );
        }
        let _ = write!(
            text,
            "KillMode=mixed\n\
             # To finish requests is what the agent waits for before it stops a generation; a reboot waits no longer than this.\n\
             TimeoutStopSec=30s\n\n\
             [Install]\nWantedBy=multi-user.target\nDefaultInstance=boot\n"
        );
        text
    }

    pub(super) fn socket(&self, port: &str) -> String {
        let mut text = format!(
            "# Holds the port for every generation of {}: none of them binds it, so none of them drops what waits in it.\n\n\
             [Unit]\nDescription=port of php-fpm, pool {}\n\n[Socket]\nListenStream={port}\n",
            self.name, self.pool
        );
        let backlog = self.settings.get("listen.backlog").filter(|backlog| !backlog.starts_with('-')).unwrap_or("4096");
        let _ = write!(text, "Backlog={backlog}\nService={}\n", self.boot());
        if let Some(clients) = self.settings.get("listen.allowed_clients") {
            let _ = writeln!(text, "IPAddressDeny=any\nIPAddressAllow={}", clients.replace(',', " "));
        }
        text.push_str("\n[Install]\nWantedBy=sockets.target\n");
        text
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
