//! The steps, in order, and the way back. Each `sh` block can be run as it stands, as root, in the directory of the files.

use std::fmt::Write;

use super::Migration;

impl Migration<'_> {
    pub(super) fn readme(&self) -> String {
        let (old, pool, boot) = (&self.fpm.unit.unit, self.pool, self.boot());
        let mut text = format!("# {old}, pool {pool}: from a restart in place to generations\n\n");
        let _ = write!(
            text,
            "Each deploy starts a php-fpm of its own, the web server's next connection goes to that one, and the old one finishes what it has.\n\
             Nothing here is in place yet. Read the files, then take the steps as root, in this directory:\n\n"
        );
        for (name, what) in [
            (
                self.config_name(),
                "php-fpm's configuration: what the pool has now, includes flattened, and the lines that make it generations",
            ),
            (self.template(), "the unit that each generation is an instance of, with the limits and environment of the pool's unit"),
            (self.target_file(), "the agent's target"),
        ] {
            let _ = writeln!(text, "- `{name}`: {what}");
        }
        if self.port().is_some() {
            let _ = writeln!(text, "- `{}`: holds the port, which every generation inherits", self.socket_unit());
        } else {
            let _ = writeln!(text, "- `web-servers.txt`: the lines of nginx and Apache to change");
        }
        self.put_in_place(&mut text);
        if let Some(port) = self.port() {
            let _ = write!(
                text,
                "\n## 3. Hand the port over\n\n\
                 Port {port} can have one owner: between these two lines connections are refused, and running requests are cut. Take the host \
                 out of its pool first, and put it back after it.\n\n\
                 ```sh\nsystemctl disable --now {old}\nsystemctl enable --now {} {boot}\n```\n",
                self.socket_unit()
            );
        } else {
            self.switch_web(&mut text);
        }
        self.to_the_agent(&mut text);
        self.way_back(&mut text);
        text
    }

    fn put_in_place(&self, text: &mut String) {
        let (config, path, template, boot) = (self.config_name(), self.config_path(), self.template(), self.boot());
        let _ = write!(
            text,
            "\n## 1. Is php-fpm content with it?\n\n```sh\nGENERATION=check {} -t -y \"$PWD/{config}\"\n```\n\n\
             ## 2. Put the files in place\n\n",
            self.program()
        );
        let _ = write!(
            text,
            "If one of these files is there already, choose another `--name`.\n\n\
             ```sh\ntest ! -e {path}\ntest ! -e /etc/systemd/system/{template}\n\
             install -m 644 {config} {path}\n\
             install -m 644 {template} /etc/systemd/system/{template}\n"
        );
        if self.port().is_some() {
            let _ = write!(text, "install -m 644 {0} /etc/systemd/system/{0}\nsystemctl daemon-reload\n```\n", self.socket_unit());
        } else {
            let current = self.current();
            let _ = write!(
                text,
                "systemctl daemon-reload\n```\n\n\
                 The first generation starts beside {}, which goes on serving:\n\n\
                 ```sh\nsystemctl enable --now {boot}\ntest -S {current}\n```\n",
                self.fpm.unit.unit
            );
        }
    }

    fn switch_web(&self, text: &mut String) {
        let (nginx, apache) = self.web_files();
        let (from, to, old) = (self.listen(), self.current(), &self.fpm.unit.unit);
        text.push_str("\n## 3. Point the web server to it\n\n");
        if nginx.is_empty() && apache.is_empty() {
            let _ = writeln!(
                text,
                "No file below /etc/nginx and /etc/apache2 names {from}. Change it where your web server has it, as in `web-servers.txt`, and \
                 reload the web server."
            );
        } else {
            let _ = write!(text, "A reload of the web server cuts nothing: its old processes finish what they have.\n\n```sh\n");
            edits(text, &nginx, &apache, from, &to);
            text.push_str("```\n");
        }
        let _ = write!(
            text,
            "\n## 4. Let the old one go\n\n\
             When nobody is connected to it any more:\n\n\
             ```sh\nwhile grep -q ' 0001 03 .* {from}$' /proc/net/unix; do sleep 1; done\nsystemctl disable --now {old}\n```\n"
        );
    }

    fn to_the_agent(&self, text: &mut String) {
        let file = self.target_file();
        let step = if self.port().is_some() { 4 } else { 5 };
        let _ = write!(text, "\n## {step}. Tell the agent\n\n");
        if let Some(target) = &self.fpm.target {
            let _ = write!(
                text,
                "Take `[target.{target}]` with `unit = \"{}\"` out of the agent's configuration first: keys of it that stay would count here, too.\n\n",
                self.fpm.unit.unit
            );
        }
        let _ = write!(
            text,
            "```sh agent\ninstall -m 644 {file} /etc/restart-agent/conf.d/{file}\nrestart-agent check-config\nsystemctl reload restart-agent\n```\n\n\
             From the next deploy on each one starts a generation. `restart-agent status` shows them.\n\n\
             Whatever names {0} elsewhere is to name `{1}` then: monitoring, puppet, sudo rules. logrotate: let its postrotate run\n\
             `systemctl kill --kill-whom=main --signal=USR1 '{2}'`, so that every generation opens its logs anew.\n\
             After an upgrade of PHP: `restart-agent trigger --target {3}`; the generations that run have the old one.\n",
            self.fpm.unit.unit,
            self.template(),
            self.template().replace("@.", "@*."),
            self.target_name()
        );
    }

    fn way_back(&self, text: &mut String) {
        let (old, template) = (&self.fpm.unit.unit, self.template());
        let instances = template.replace("@.", "@*.");
        let file = self.target_file();
        let _ = write!(
            text,
            "\n## The way back\n\nTake the agent's target out, or it starts the next generation:\n\n\
             ```sh agent-back\nrm /etc/restart-agent/conf.d/{file}\nsystemctl reload restart-agent\n```\n\n"
        );
        if self.port().is_some() {
            let _ = write!(
                text,
                "```sh back\nsystemctl disable --now {0} {1}\nsystemctl stop '{instances}'\nsystemctl enable --now {old}\n```\n\n",
                self.socket_unit(),
                self.boot()
            );
        } else {
            let (nginx, apache) = self.web_files();
            let (from, to) = (self.listen(), self.current());
            let _ = write!(text, "```sh back\nsystemctl enable --now {old}\n");
            edits(text, &nginx, &apache, &to, from);
            let _ = write!(
                text,
                "while grep -Eq ' 0001 03 .* /run/{}/[a-z0-9-]+[.]sock$' /proc/net/unix; do sleep 1; done\n\
                 systemctl disable {1}\nsystemctl stop '{instances}'\n```\n\n",
                self.name,
                self.boot()
            );
        }
        let _ = write!(
            text,
            "Then the files can go:\n\n```sh back\nrm {} /etc/systemd/system/{template}{}\nrm -r /run/{}\nsystemctl daemon-reload\n```\n",
            self.config_path(),
            if self.port().is_some() { format!(" /etc/systemd/system/{}", self.socket_unit()) } else { String::new() },
            self.name
        );
    }
}

/// What puts one socket in the place of another.
fn edits(text: &mut String, nginx: &std::collections::BTreeSet<&str>, apache: &std::collections::BTreeSet<&str>, from: &str, to: &str) {
    for file in nginx.iter().chain(apache) {
        let quote = if super::is_literal(file) { "" } else { "'" };
        let _ = writeln!(text, "sed -i --follow-symlinks 's|{}|{to}|g' {quote}{file}{quote}", from.replace('.', "[.]"));
    }
    if !nginx.is_empty() {
        text.push_str("nginx -t\nsystemctl reload nginx\n");
    }
    if !apache.is_empty() {
        text.push_str("apachectl -t\nsystemctl reload apache2\n");
    }
}
