//! docs/reference/configuration.md, made from the table of keys.

use std::fmt::Write;

use super::keys::{self, Level, NOT_YET};
use super::section::{Fallback, Key, Section, Type};

const HEAD: &str = "\
# Configuration

<!-- Made from src/config/keys.rs by `UPDATE=1 cargo test --lib config::`; a test compares it. -->

The agent reads `/etc/restart-agent/config.toml` and then the drop-ins `conf.d/*.toml` of `/etc/restart-agent`,
`/run/restart-agent` and `/usr/lib/restart-agent`, in the order of their file names. Of two drop-ins with the same name only
one is read: /etc before /run before /usr/lib. A link to `/dev/null` takes the name out. Files are merged key by key, the later
one wins, and a list is replaced as a whole. No file at all is a valid configuration that does nothing.

Times are written `500ms`, `5s`, `10m`, `24h`, `7d`. An unknown key, a wrong type or a combination that cannot work is an error
with file, line and column; a configuration with an error is not used, and the one before it stays in force.
`restart-agent check-config` tells all errors at once. `restart-agent check-config FILE…` checks these files alone, as Puppet's
`validate_cmd` needs it: what another file may add is not missed, but a `[target.NAME]` that says its `kind` must be whole.

At most 256 targets, 64 pools, 4096 names of units in all, 1024 files, and 1 MiB a file.
";

/// The whole page.
#[must_use]
pub fn render() -> String {
    let mut page = String::from(HEAD);
    for section in Section::ALL {
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n| key | type | default | meaning |\n|---|---|---|---|\n",
            heading(*section),
            introduction(*section)
        );
        for key in keys::of(*section) {
            let _ = writeln!(page, "| `{}` | {} | {} | {} |", key.name, type_text(key.takes), default_text(key), key.says);
        }
    }
    page.push_str("\n## Not supported by this version\n\nThese keys are refused with a message that says so, never read and ignored:\n\n");
    for (level, title) in
        [(Level::Top, "at the top"), (Level::Stamp, "in `[stamp]`"), (Level::Pool, "in `[pool]`"), (Level::Target, "in a target")]
    {
        let names: Vec<String> = NOT_YET.iter().filter(|(at, _)| *at == level).map(|(_, name)| format!("`{name}`")).collect();
        if !names.is_empty() {
            let _ = writeln!(page, "- {title}: {}", names.join(", "));
        }
    }
    page
}

fn heading(section: Section) -> String {
    match section.kind() {
        Some(kind) if section == Section::Generations => format!("[target.NAME] with kind = \"{kind}\" and strategy = \"generations\""),
        Some(kind) => format!("[target.NAME] with kind = \"{kind}\""),
        None if section == Section::Proof => "proof of a php-fpm target".into(),
        None if section == Section::Opcache => "opcache of a php-fpm target".into(),
        None => section.title().into(),
    }
}

fn introduction(section: Section) -> &'static str {
    match section {
        Section::Stamp => "Where deploys are seen.",
        Section::Pool => {
            "The load balancer's entry for this host. Leave it out, and nothing is depooled. For several write `[pool.NAME]` each, all with the same keys; a plain `[pool]` has the name `default`."
        }
        Section::PhpFpm => "NAME here and below is yours: `a` to `z`, `0` to `9`, `_` and `-`, at most 64 of them.",
        Section::Scheduled => {
            "No unit may be named by two targets, nor be named by one and matched by a glob of another, unless that one excludes it."
        }
        Section::Generations => "See [php-fpm in generations](../guide/generations.md).",
        Section::Service | Section::Strays => "",
        Section::Proof => "",
        Section::Opcache => "See [the opcache guard](../guide/opcache.md).",
    }
}

fn type_text(takes: Type) -> String {
    match takes {
        Type::Time => "time".into(),
        Type::TimeAboveZero => "time, not zero".into(),
        Type::Count => "number, 1 to 1000".into(),
        Type::Number => "number, 1 to 1000000".into(),
        Type::Percent => "percentage: `\"20%\"`".into(),
        Type::Size => "size: `200M`, `2G`".into(),
        Type::Path => "absolute path".into(),
        Type::SocketLink => "absolute path of a symlink, or name of a .socket unit".into(),
        Type::Address => "absolute path, or IP:PORT".into(),
        Type::Uri => "string that begins with `/`".into(),
        Type::Uris => "list of strings that begin with `/`".into(),
        Type::Argv => "list: absolute path, arguments".into(),
        Type::Unit => "name of a service".into(),
        Type::Template => "name of a template of services".into(),
        Type::Units => "list of names or globs of services, not empty".into(),
        Type::Excluded => "list of names or globs of services".into(),
        Type::Names => "list of names or globs of processes, not empty".into(),
        Type::Programs => "list of names or globs of processes, not empty, no shells".into(),
        Type::Word { of, .. } => of.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", "),
        Type::Table(_) => "table".into(),
    }
}

fn default_text(key: &Key) -> String {
    match key.default {
        Fallback::Required => "**required**".into(),
        Fallback::Absent => "none".into(),
        Fallback::Is(text) => format!("`\"{text}\"`"),
    }
}
