//! The lines of nginx and Apache that name the pool's socket.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::Migration;

impl Migration<'_> {
    /// File, number and text of each line that names the pool's socket.
    fn web_lines(&self) -> Vec<(&str, u32, &str)> {
        let old = self.listen();
        let names = |line: &str| {
            line.match_indices(old).any(|(at, _)| {
                let after = line[at + old.len()..].chars().next();
                !after.is_some_and(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
            })
        };
        let mut found = Vec::new();
        for (file, text) in self.web {
            for (line, number) in text.lines().map(str::trim).zip(1..) {
                if !line.starts_with('#') && names(line) {
                    found.push((file.as_str(), number, line));
                }
            }
        }
        found
    }

    /// The files that name it; nginx's first.
    pub(super) fn web_files(&self) -> (BTreeSet<&str>, BTreeSet<&str>) {
        self.web_lines().into_iter().map(|(file, ..)| file).partition(|file| file.starts_with("/etc/nginx/"))
    }

    pub(super) fn web_servers(&self) -> String {
        let (old, new) = (self.listen(), self.current());
        let mut text = format!(
            "The web server connects to {new} in place of {old}.\n\
             It resolves that symlink at each connect, so a deploy needs no reload of it.\n\n"
        );
        let found = self.web_lines();
        if found.is_empty() {
            let _ = writeln!(
                text,
                "No file below /etc/nginx and /etc/apache2 names {old}: look for it where your web server has its configuration."
            );
        }
        for (file, number, line) in found {
            let _ = writeln!(text, "{file}:{number}\n  - {line}\n  + {}", line.replace(old, &new));
        }
        let _ = write!(
            text,
            "\nHow it is to look like:\n\n\
             nginx:\n  fastcgi_pass unix:{new};\n  fastcgi_keep_conn off;    # the default\n\n\
             Apache, mod_proxy_fcgi:\n  SetHandler \"proxy:unix:{new}|fcgi://localhost\"\n\n\
             Without enablereuse=on: a connection that is reused stays with the old generation, which then gets new requests and never falls idle.\n"
        );
        text
    }
}
