//! The merged tree becomes a [`Policy`].

use super::MAX_POOLS;
use super::guess;
use super::keys::{self, Level};
use super::problem::{Report, quoted};
use super::reader::{self, Fields};
use super::section::Section;
use super::source::Place;
use super::targets;
use super::tree::{Data, Entry, Table};
use crate::core::policy::{Identity, Policy, PoolRules, StampRules};

/// How much of a configuration is at hand, which decides what may be missing from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Whole,
    /// Files of it: another one may add what they lack.
    Fragment,
    /// Some file could not be read, and what it says is not known. No follow-up errors.
    Broken,
}

/// Checks everything. What is returned holds only if nothing was reported and the extent is [`Extent::Whole`].
pub(super) fn policy(merged: &Table, extent: Extent, report: &mut Report) -> Policy {
    let extent = if report.is_clean() { extent } else { Extent::Broken };
    let mut policy = Policy::default();
    for (name, entry) in merged {
        match name.as_str() {
            "stamp" | "pool" | "target" => {}
            name if keys::is_not_yet(Level::Top, name) => reader::not_yet(name, &entry.key, report),
            name => {
                let advice = guess::nearest(name, ["stamp", "pool", "target"].into_iter())
                    .map_or_else(|| "the tables are [stamp], [pool] and [target.NAME]".into(), |near| format!("did you mean `{near}`?"));
                report.at(&entry.key, format!("{} is no table of this configuration", quoted(name)), advice);
            }
        }
    }
    if let Some((entry, table)) = section(merged, "stamp", "[stamp]", report) {
        policy.stamp = stamp(&reader::read(Section::Stamp, Some(Level::Stamp), &entry.key, table, false, report));
    }
    if let Some((entry, table)) = section(merged, "pool", "[pool]", report) {
        pools(entry, table, extent, &mut policy, report);
    }
    if let Some((_, table)) = section(merged, "target", "[target.NAME]", report) {
        policy.targets = targets::read(table, extent, report);
        need_a_path(merged, table, extent, report);
    }
    policy
}

fn section<'t>(merged: &'t Table, name: &str, header: &str, report: &mut Report) -> Option<(&'t Entry, &'t Table)> {
    let entry = merged.get(name)?;
    if let Data::Table(table) = &entry.value.data {
        return Some((entry, table));
    }
    report.at(
        &entry.key,
        format!("`{name}` is {}", entry.value.data.kind()),
        format!("write {header} on a line of its own and its keys below"),
    );
    None
}

fn stamp(fields: &Fields) -> StampRules {
    StampRules {
        path: fields.text("path").unwrap_or_default(),
        settle: fields.time("settle"),
        min_interval: fields.time("min_interval"),
        begin_timeout: fields.time("begin_timeout"),
        identity: if fields.word("identity") == "content" { Identity::Content } else { Identity::Mtime },
    }
}

/// Without a stamp no target is ever renewed: said at [stamp] if there is one, else at the first target.
fn need_a_path(merged: &Table, targets: &Table, extent: Extent, report: &mut Report) {
    let given = merged.get("stamp").is_some_and(|entry| !matches!(&entry.value.data, Data::Table(table) if !table.contains_key("path")));
    if extent != Extent::Whole || given {
        return;
    }
    let first = targets.values().map(|entry| &entry.key).min_by_key(|place| (place.source.index, place.start));
    if let Some(place) = merged.get("stamp").map(|entry| &entry.key).filter(|_| first.is_some()).or(first) {
        let message = "there are targets, but no stamp that says when they are stale";
        report.at(place, message, "write `path = \"/srv/deploy/stamp\"` below [stamp]");
    }
}

fn pools(entry: &Entry, table: &Table, extent: Extent, policy: &mut Policy, report: &mut Report) {
    let plain = table.iter().find(|(_, entry)| !matches!(entry.value.data, Data::Table(_)));
    let named = table.iter().find(|(_, entry)| matches!(entry.value.data, Data::Table(_)));
    match (plain, named) {
        (Some((key, place)), Some((name, other))) => {
            let message = format!(
                "[pool] has the key `{}` of its own, and there is [pool.{}] ({}) as well",
                short(key),
                short(name),
                other.key.short()
            );
            report.at(&place.key, message, "give each pool a name: [pool.NAME]");
        }
        (_, Some(_)) => {
            if table.len() > MAX_POOLS {
                report.at(&entry.key, format!("there are {} pools, and the limit is {MAX_POOLS}", table.len()), "remove some");
            }
            for (name, entry) in table {
                if let Data::Table(keys) = &entry.value.data {
                    check_name("pool", name, &entry.key, report);
                    policy.pools.insert(name.clone(), pool(&entry.key, keys, extent, report));
                }
            }
        }
        (_, None) => {
            policy.pools.insert("default".into(), pool(&entry.key, table, extent, report));
        }
    }
}

fn pool(header: &Place, table: &Table, extent: Extent, report: &mut Report) -> PoolRules {
    let fields = reader::read(Section::Pool, Some(Level::Pool), header, table, extent == Extent::Whole, report);
    PoolRules {
        depool: fields.texts("depool"),
        repool: fields.texts("repool"),
        check: fields.texts("check"),
        timeout: fields.time("timeout"),
        quiet: fields.time("quiet"),
    }
}

/// Names of pools and targets are typed into commands and shown in tables: `[a-z0-9_-]`, at most 64 of them.
pub(super) fn check_name(what: &str, name: &str, place: &Place, report: &mut Report) {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        let message = format!("{} is no name of a {what}", quoted(name));
        report.at(place, message, "use a to z, 0 to 9, _ and -, at most 64 of them");
    }
}

fn short(name: &str) -> String {
    name.chars().take(60).collect()
}
