//! `[target.NAME]`: the rules of each, and what they must not say together.

use std::collections::BTreeMap;

use super::MAX_TARGETS;
use super::keys::{self, KINDS, Level};
use super::problem::{Report, quoted};
use super::reader::{self, Fields, Item};
use super::section::Section;
use super::tree::{Data, Entry, Table};
use super::units;
use super::validate::{Extent, check_name};
use crate::core::opcache::OpcacheRules;
use crate::core::policy::{
    After, AtMax, FpmRules, GenerationRules, Overdue, ProofRules, ScheduledRules, ServiceRules, StrayAction, StrayRules, TargetRules,
};

/// Names and globs of one configuration: each is compared to each.
const MAX_UNITS: usize = 4096;

/// What a target says about which units are its own.
struct Claim<'t> {
    target: &'t str,
    names: Vec<Item>,
    exclude: Vec<Item>,
}

/// Reads all targets. Bad ones are left out, and told.
pub(super) fn read(table: &Table, extent: Extent, report: &mut Report) -> BTreeMap<String, TargetRules> {
    let mut rules = BTreeMap::new();
    let mut claims = Vec::new();
    let mut homeless = false;
    if table.len() > MAX_TARGETS
        && let Some(entry) = table.values().next()
    {
        report.at(&entry.key, format!("there are {} targets, and the limit is {MAX_TARGETS}", table.len()), "use globs in `units`");
        return rules;
    }
    for (name, entry) in table {
        let Data::Table(keys) = &entry.value.data else {
            if matches!(entry.value.data, Data::Array(ref items) if items.iter().all(|item| matches!(item.data, Data::Table(_)))) {
                report.at(&entry.key, format!("{} is an array of tables", quoted(name)), "write [target.NAME], in single brackets");
            } else if !std::mem::replace(&mut homeless, true) {
                report.at(
                    &entry.key,
                    format!("{} stands in [target] itself", quoted(name)),
                    "write [target.NAME], with a name of your choice, above it",
                );
            }
            continue;
        };
        check_name("target", name, &entry.key, report);
        let Some((section, fields)) = keys_of(entry, keys, extent, report) else { continue };
        claims.push(Claim {
            target: name,
            names: fields.item("unit").cloned().into_iter().chain(fields.items("units").iter().cloned()).collect(),
            exclude: fields.items("exclude").to_vec(),
        });
        asks_in_vain(&fields, report);
        if section == Section::Generations && fields.count("max_generations") < 2 {
            let message = "with `max_generations = 1` no new generation could start beside the old one";
            report.at(&entry.key, message, "write 2 or more, or `strategy = \"restart\"`");
        }
        rules.insert(name.clone(), build(section, &fields));
    }
    disjoint(&claims, report);
    rules
}

/// Checks the keys of one target by its kind, or, if it says none, by what all kinds have.
fn keys_of(entry: &Entry, table: &Table, extent: Extent, report: &mut Report) -> Option<(Section, Fields)> {
    let kind = table.get("kind").and_then(|entry| match &entry.value.data {
        Data::Text(kind) => Section::of_kind(kind),
        _ => None,
    });
    let generations = |entry: &Entry| matches!(&entry.value.data, Data::Text(word) if word == "generations");
    let strategy = table.get("strategy").filter(|entry| generations(entry));
    if let Some(section) = kind.map(|kind| if kind == Section::PhpFpm && strategy.is_some() { Section::Generations } else { kind }) {
        return Some((section, reader::read(section, Some(Level::Target), &entry.key, table, extent != Extent::Broken, report)));
    }
    if extent == Extent::Whole && !table.contains_key("kind") {
        report.at(&entry.key, "`kind` is missing", format!("write `kind = \"{}\"`", KINDS.join("\" or \"")));
    }
    // Each key by the first kind that has it: what it takes does not depend on the kind.
    for (name, entry) in table {
        let known = [Section::PhpFpm, Section::Generations, Section::Scheduled, Section::Service, Section::Strays]
            .into_iter()
            .find(|section| keys::find(*section, name).is_some());
        let alone = |entry: &Entry| Table::from([(name.clone(), Entry { key: entry.key.clone(), value: entry.value.clone() })]);
        reader::read(known.unwrap_or(Section::Scheduled), Some(Level::Target), &entry.key, &alone(entry), false, report);
    }
    None
}

fn build(section: Section, fields: &Fields) -> TargetRules {
    match section {
        Section::PhpFpm => TargetRules::PhpFpm(FpmRules {
            unit: fields.text("unit").unwrap_or_default(),
            drain_timeout: fields.time("drain_timeout"),
            term_timeout: fields.time("term_timeout"),
            status: fields.text("status"),
            status_path: fields.text("status_path"),
            warm: fields.texts("warm"),
            proof: proof(fields),
            opcache: opcache(fields),
        }),
        Section::Generations => TargetRules::Generations(GenerationRules {
            unit: fields.text("unit").unwrap_or_default(),
            socket: fields.text("socket").unwrap_or_default(),
            linger: fields.time("linger"),
            max_generations: fields.count("max_generations"),
            at_max: if fields.word("at_max") == "end-oldest" { AtMax::EndOldest } else { AtMax::Wait },
            min_available_memory: fields.amount("min_available_memory"),
            term_timeout: fields.time("term_timeout"),
            warm: fields.texts("warm"),
            proof: proof(fields),
            opcache: opcache(fields),
        }),
        Section::Scheduled => TargetRules::Scheduled(ScheduledRules {
            units: fields.texts("units"),
            exclude: fields.texts("exclude"),
            drain_timeout: fields.time("drain_timeout"),
            overdue: overdue(fields),
            ask: fields.texts("ask"),
            unask: fields.texts("unask"),
            settle_after: fields.time("settle_after"),
            checkpoint_timeout: fields.time("checkpoint_timeout"),
            hold_timeout: fields.time("hold_timeout"),
            max_interruptions: fields.count("max_interruptions"),
            term_timeout: fields.time("term_timeout"),
            after: match fields.word("after") {
                "rerun" => After::Rerun,
                "until-next" => After::UntilNext,
                _ => After::Auto,
            },
            quiet_within: fields.time("quiet_within"),
            code: fields.texts("code"),
        }),
        Section::Strays => TargetRules::Strays(StrayRules {
            code: fields.texts("code"),
            action: match fields.word("action") {
                "notify" => StrayAction::Notify,
                "stop" => StrayAction::Stop,
                _ => StrayAction::Report,
            },
            drain_timeout: fields.time("drain_timeout"),
            term_timeout: fields.time("term_timeout"),
        }),
        Section::Service | Section::Stamp | Section::Pool | Section::Proof | Section::Opcache => TargetRules::Service(ServiceRules {
            units: fields.texts("units"),
            exclude: fields.texts("exclude"),
            code: fields.texts("code"),
            drain_timeout: fields.time("drain_timeout"),
            checkpoint_timeout: fields.time("checkpoint_timeout"),
            hold_timeout: fields.time("hold_timeout"),
            overdue: overdue(fields),
            ask: fields.texts("ask"),
            unask: fields.texts("unask"),
            term_timeout: fields.time("term_timeout"),
        }),
    }
}

fn proof(fields: &Fields) -> Option<ProofRules> {
    fields.table("proof").map(|proof| ProofRules { script: proof.text("script").unwrap_or_default() })
}

fn opcache(fields: &Fields) -> Option<OpcacheRules> {
    fields.table("opcache").map(|opcache| OpcacheRules {
        min_free: opcache.amount("min_free"),
        min_free_keys: opcache.amount("min_free_keys"),
        max_wasted: opcache.amount("max_wasted"),
        every: opcache.time("every"),
    })
}

fn overdue(fields: &Fields) -> Option<Overdue> {
    fields.text("overdue").map(|overdue| if overdue == "finish" { Overdue::Finish } else { Overdue::Stop })
}

/// A command that asks is run when a unit is asked, which is not at all with a `checkpoint_timeout` of nothing.
fn asks_in_vain(fields: &Fields, report: &mut Report) {
    let words = ["ask", "unask"].map(|name| fields.items(name).first());
    if let Some(place) = words.into_iter().flatten().next().filter(|_| fields.time("checkpoint_timeout").is_zero()) {
        report.at(
            &place.place,
            "nothing is asked to stop, since `checkpoint_timeout` is 0s",
            "write `checkpoint_timeout = \"10m\"`: how long it has to stop after it was asked",
        );
    } else if let [None, Some(unask)] = words {
        report.at(&unask.place, "`unask` takes back what `ask` did, and there is no `ask`", "write `ask` as well, or leave `unask` out");
    }
}

impl Claim<'_> {
    fn excludes(&self, unit: &str) -> bool {
        self.exclude.iter().any(|item| item.text == unit || units::matches(&item.text, unit))
    }

    /// Units named one by one, and not excluded.
    fn literals(&self) -> impl Iterator<Item = &Item> {
        self.names.iter().filter(|item| !units::is_glob(&item.text) && !self.excludes(&item.text))
    }
}

/// No unit may be named by two targets, nor be named by one and matched by a glob of another: the two would renew it by
/// different rules. Two globs are not compared: whether they meet depends on the host's units.
fn disjoint(claims: &[Claim<'_>], report: &mut Report) {
    let total: usize = claims.iter().map(|claim| claim.names.len() + claim.exclude.len()).sum();
    if total > MAX_UNITS {
        if let Some(item) = claims.iter().rev().find_map(|claim| claim.names.last()) {
            report.at(&item.place, format!("there are {total} names of units, and the limit is {MAX_UNITS}"), "use globs");
        }
        return;
    }
    let mut owners: BTreeMap<&str, (&str, &Item)> = BTreeMap::new();
    for claim in claims {
        for item in claim.literals() {
            let Some((other, earlier)) = owners.insert(&item.text, (claim.target, item)) else { continue };
            let ((target, first), second) = if (first_of(earlier), other) <= (first_of(item), claim.target) {
                ((other, earlier), item)
            } else {
                ((claim.target, item), earlier)
            };
            let message = format!("{} is in [target.{target}] ({}) as well", quoted(&item.text), first.place.short());
            report.at(&second.place, message, "leave it in one of the two");
        }
    }
    for claim in claims {
        for glob in claim.names.iter().filter(|item| units::is_glob(&item.text)) {
            for other in claims.iter().filter(|other| other.target != claim.target) {
                for item in other.literals().filter(|item| units::matches(&glob.text, &item.text) && !claim.excludes(&item.text)) {
                    let message = format!(
                        "{} is matched by {} of [target.{}] ({}) as well",
                        quoted(&item.text),
                        quoted(&glob.text),
                        claim.target,
                        glob.place.short()
                    );
                    report.at(&item.place, message, format!("add it to `exclude` of [target.{}]", claim.target));
                }
            }
        }
    }
}

fn first_of(item: &Item) -> (usize, usize) {
    (item.place.source.index, item.place.start)
}
