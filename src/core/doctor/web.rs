//! FastCGI keep-alive of the web server in front.

use super::finding::{Finding, Mend};
use super::seen::Files;

const REUSES: &str = "enablereuse=on";
const NGINX: &str = "an idle connection counts as a request in flight and takes a worker: drains last their whole time. With generations it stays \
                     with the old one, which then gets new requests and never falls idle";
const APACHE: &str = "an idle connection counts as a request in flight and takes a worker: drains last their whole time. With generations it \
                      stays with the old one, which then gets new requests until Apache closes it";

pub fn findings(files: &Files) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, text) in files {
        let nginx = file.starts_with("/etc/nginx/");
        // The `<Proxy …>` that a line is in.
        let mut proxy = "";
        for (line, number) in text.lines().zip(1..) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if nginx {
                let is_it = |statement: &&str| statement.split_whitespace().eq(["fastcgi_keep_conn", "on"]);
                if let Some(statement) = line.split([';', '{', '}']).find(is_it) {
                    let off = line.replace(statement.trim(), "fastcgi_keep_conn off");
                    found.push(one("web-nginx-keeps", "nginx", file, number, off));
                }
                continue;
            }
            if line.starts_with("<Proxy") {
                proxy = line;
            } else if line.starts_with("</Proxy") {
                proxy = "";
            }
            let lower = line.to_ascii_lowercase();
            let is_fcgi = |text: &str| text.contains("fcgi:") || text.contains("unix:");
            if let Some(at) = lower.find(REUSES).filter(|_| is_fcgi(line) || is_fcgi(proxy)) {
                let off = format!("{}enablereuse=off{}", &line[..at], &line[at + REUSES.len()..]);
                found.push(one("web-apache-reuses", "apache", file, number, off));
            }
        }
    }
    found
}

fn one(id: &'static str, about: &str, file: &str, number: u32, off: String) -> Finding {
    let (what, costs, then) = if about == "nginx" {
        ("fastcgi_keep_conn on", NGINX, "nginx -t, then systemctl reload nginx")
    } else {
        (REUSES, APACHE, "apachectl -t, then systemctl reload apache2")
    };
    let mend = Mend { file: file.to_owned(), line: Some(number), section: String::new(), write: vec![off], then: then.to_owned() };
    Finding { id, about: about.to_owned(), pool: None, target: None, what: what.to_owned(), costs, mend }
}
