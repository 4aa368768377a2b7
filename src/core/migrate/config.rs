//! The php-fpm configuration of all generations, and the agent's target.

use std::fmt::Write;

use super::Migration;

/// Of [global]: each generation is a master of its own, in the foreground, and none may write over the other's pid file.
const NOT_GLOBAL: [&str; 2] = ["pid", "daemonize"];

impl Migration<'_> {
    /// One file, includes in their places; whatever the pool has set it keeps, but for where it listens.
    pub(super) fn config(&self) -> String {
        let mut text = format!(
            "; php-fpm of all generations of {}, from {} and what it includes.\n\
             ; php-fpm takes ${{GENERATION}} from the environment that its unit gives it.\n",
            self.name, self.fpm.root
        );
        let _ = writeln!(text, "\n[global]\ndaemonize = no");
        if self.port().is_some() {
            text.push_str(
                "; After SIGQUIT its busy workers go on for so long: as long as the target's linger.\nprocess_control_timeout = 24h\n",
            );
        }
        for line in self.lines.iter().filter(|line| line.section == "global" && !line.key.is_empty()) {
            if line.key == "error_log" && line.value.starts_with("/dev/std") {
                text.push_str("error_log = syslog\n");
            } else if !NOT_GLOBAL.contains(&line.key) && (self.port().is_none() || line.key != "process_control_timeout") {
                let _ = writeln!(text, "{}", line.raw);
            }
        }
        let _ = writeln!(text, "\n[{}]", self.pool);
        let own = self.own_settings();
        for (key, value) in &own {
            let _ = writeln!(text, "{key} = {value}");
        }
        for line in self.lines.iter().filter(|line| line.section == self.pool && !line.key.is_empty()) {
            // A socket that is inherited has the owner that systemd gave it.
            let of_the_socket = self.port().is_some() && line.key == "listen.backlog";
            if !of_the_socket && !own.iter().any(|(key, _)| *key == line.key) {
                let _ = writeln!(text, "{}", line.raw);
            }
        }
        text
    }

    pub(super) fn target(&self) -> String {
        let name = self.target_name();
        let mut text = format!("[target.{name}]\nkind = \"php-fpm\"\nunit = \"{}\"\nstrategy = \"generations\"\n", self.template());
        let _ = writeln!(text, "socket = \"{}\"", self.socket_key());
        text.push_str("linger = \"24h\"           # how long requests of an old generation may go on\nmax_generations = 8\n");
        if let Some(rules) = self.rules {
            if !rules.warm.is_empty() {
                let warm: Vec<String> = rules.warm.iter().map(|script| string(script)).collect();
                let _ = writeln!(text, "warm = [{}]", warm.join(", "));
            }
            if let Some(proof) = &rules.proof {
                let _ = writeln!(text, "proof = {{ script = {}, expect = \"id\" }}", string(&proof.script));
            }
        }
        text
    }
}

/// As TOML has it.
fn string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
