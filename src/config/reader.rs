//! One table of the configuration against the keys it may have: every value checked, every problem told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::amount;
use super::guess;
use super::keys::{self, Level};
use super::problem::{Report, quoted};
use super::section::{Fallback, Key, Section, Type};
use super::source::Place;
use super::tree::{Data, Entry, Table, Value};
use super::units;
use crate::core::generation_name as name;
use crate::core::time::Span;

/// More words or names than any list of a configuration needs.
const MAX_LIST: usize = 4096;

/// The good values of one table. A bad one is absent here, and told in the report.
#[derive(Debug)]
pub(super) struct Fields {
    section: Section,
    values: BTreeMap<&'static str, Good>,
}

#[derive(Debug)]
enum Good {
    Time(Duration),
    Amount(u64),
    Text(Item),
    List(Vec<Item>),
    Table(Fields),
}

/// A string and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub text: String,
    pub place: Place,
}

impl Fields {
    /// The time under this key, else its default.
    pub fn time(&self, name: &str) -> Duration {
        match self.values.get(name) {
            Some(Good::Time(time)) => *time,
            _ => self.default(name).and_then(|text| Span::parse(text).ok()).map(|span| span.0).unwrap_or_default(),
        }
    }

    /// The number under this key, else its default.
    pub fn count(&self, name: &str) -> u32 {
        match self.values.get(name) {
            Some(Good::Amount(amount)) => u32::try_from(*amount).unwrap_or(u32::MAX),
            _ => self.default(name).and_then(|text| text.parse().ok()).unwrap_or_default(),
        }
    }

    /// The number, percentage or bytes under this key, if it is there.
    pub fn amount(&self, name: &str) -> Option<u64> {
        match self.values.get(name) {
            Some(Good::Amount(amount)) => Some(*amount),
            _ => None,
        }
    }

    /// The word under this key, else its default.
    pub fn word(&self, name: &str) -> &str {
        self.item(name).map_or_else(|| self.default(name).unwrap_or_default(), |item| &item.text)
    }

    pub fn item(&self, name: &str) -> Option<&Item> {
        match self.values.get(name) {
            Some(Good::Text(item)) => Some(item),
            _ => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.item(name).map(|item| item.text.clone())
    }

    pub fn items(&self, name: &str) -> &[Item] {
        match self.values.get(name) {
            Some(Good::List(items)) => items,
            _ => &[],
        }
    }

    /// The list under this key, in the order of the file; empty if there is none.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.items(name).iter().map(|item| item.text.clone()).collect()
    }

    pub fn table(&self, name: &str) -> Option<&Fields> {
        match self.values.get(name) {
            Some(Good::Table(fields)) => Some(fields),
            _ => None,
        }
    }

    fn default(&self, name: &str) -> Option<&'static str> {
        match keys::find(self.section, name)?.default {
            Fallback::Is(text) => Some(text),
            Fallback::Required | Fallback::Absent => None,
        }
    }
}

/// Reads a table by the keys of its section. `whole`: missing required keys are told, at the table's header.
pub(super) fn read(section: Section, level: Option<Level>, header: &Place, table: &Table, whole: bool, report: &mut Report) -> Fields {
    let mut values = BTreeMap::new();
    for (name, entry) in table {
        if let Some(key) = keys::find(section, name) {
            if let Some(good) = value(key, entry, whole, report) {
                values.insert(key.name, good);
            }
        } else if level.is_some_and(|level| keys::is_not_yet(level, name)) {
            not_yet(name, &entry.key, report);
        } else {
            unknown(section, name, &entry.key, report);
        }
    }
    if whole {
        for key in keys::of(section).filter(|key| key.default == Fallback::Required && !table.contains_key(key.name)) {
            report.at(header, format!("`{}` is missing", key.name), format!("write {}", example(key)));
        }
    }
    Fields { section, values }
}

pub(super) fn not_yet(name: &str, place: &Place, report: &mut Report) {
    report.at(place, format!("`{name}` is not supported by this version of restart-agent"), "remove it");
}

fn unknown(section: Section, name: &str, place: &Place, report: &mut Report) {
    let message = format!("`{}` is not a key of {}", short(name), section.title());
    let mut elsewhere: Vec<&str> = Section::ALL
        .iter()
        .filter(|other| section.kind().is_some() && keys::find(**other, name).is_some())
        .filter_map(|other| if *other == Section::Generations { Some("php-fpm\" with strategy = \"generations") } else { other.kind() })
        .collect();
    if elsewhere.contains(&"php-fpm") {
        elsewhere.retain(|kind| *kind == "php-fpm" || !kind.starts_with("php-fpm"));
    }
    let advice = if section == Section::PhpFpm && name == "units" {
        "write `unit = \"NAME.service\"`: one target for each php-fpm".into()
    } else if name == "unit" && section.kind().is_some() {
        "write `units = [\"NAME.service\"]`".into()
    } else if !elsewhere.is_empty() {
        format!("it belongs to kind = \"{}\": remove it", elsewhere.join("\" and \""))
    } else if let Some(near) = guess::nearest(name, keys::of(section).map(|key| key.name)) {
        format!("did you mean `{near}`?")
    } else {
        let names: Vec<&str> = keys::of(section).map(|key| key.name).collect();
        format!("its keys are {}", names.join(", "))
    };
    report.at(place, message, advice);
}

/// What a right line of this key looks like.
pub(super) fn example(key: &Key) -> String {
    let name = key.name;
    match (key.takes, name) {
        (Type::Time | Type::TimeAboveZero, _) => match key.default {
            Fallback::Is(text) => format!("`{name} = \"{text}\"`"),
            Fallback::Required | Fallback::Absent => format!("`{name} = \"5s\"`"),
        },
        (Type::Count, _) => match key.default {
            Fallback::Is(text) => format!("`{name} = {text}`"),
            Fallback::Required | Fallback::Absent => format!("`{name} = 3`"),
        },
        (Type::Number, _) => format!("`{name} = 5000`"),
        (Type::Percent, _) => format!("`{name} = \"20%\"`"),
        (Type::Size, _) => format!("`{name} = \"2G\"`"),
        (Type::SocketLink, _) => format!("`{name} = \"/run/php/job/current.sock\"`"),
        (Type::Template, _) => format!("`{name} = \"php-fpm-job@.service\"`"),
        (Type::Path, "script") => "`script = \"/srv/app/version.php\"`".into(),
        (Type::Path, _) => format!("`{name} = \"/srv/deploy/stamp\"`"),
        (Type::Address, _) => format!("`{name} = \"/run/php/php8.2-fpm-status.sock\"`"),
        (Type::Uri, _) => format!("`{name} = \"/fpm-status\"`"),
        (Type::Uris, _) => format!("`{name} = [\"/w/health-check.php\"]`"),
        (Type::Argv, "repool") => "`repool = [\"/usr/local/bin/pool\"]`".into(),
        (Type::Argv, "check") => "`check = [\"/usr/local/bin/pool-state\"]`".into(),
        (Type::Argv, _) => format!("`{name} = [\"/usr/local/bin/{name}\"]`"),
        (Type::Unit, _) => format!("`{name} = \"php8.2-fpm.service\"`"),
        (Type::Units | Type::Excluded, _) => format!("`{name} = [\"NAME.service\"]`"),
        (Type::Names | Type::Programs, _) => format!("`{name} = [\"php*\"]`"),
        (Type::Word { of, .. }, _) => format!("`{name} = \"{}\"`", of.join("\" or \"")),
        (Type::Table(Section::Opcache), _) => format!("`{name} = {{ min_free = \"200M\" }}`"),
        (Type::Table(_), _) => format!("`{name} = {{ script = \"/srv/app/version.php\" }}`"),
    }
}

fn value(key: &'static Key, entry: &Entry, whole: bool, report: &mut Report) -> Option<Good> {
    let found = &entry.value;
    match (key.takes, &found.data) {
        (Type::Table(section), Data::Table(table)) => Some(Good::Table(read(section, None, &entry.key, table, whole, report))),
        (Type::Time, Data::Text(text)) => time(text, found, report).map(Good::Time),
        (Type::TimeAboveZero, Data::Text(text)) => match time(text, found, report)? {
            Duration::ZERO => wrong(found, format!("`{}` cannot be zero", key.name), format!("write {}", example(key)), report),
            time => Some(Good::Time(time)),
        },
        (Type::Word { of, not_yet }, Data::Text(text)) => {
            if of.contains(&text.as_str()) {
                return Some(Good::Text(Item { text: text.clone(), place: found.place.clone() }));
            }
            if not_yet.contains(&text.as_str()) {
                let message = format!("{} = \"{text}\" is not supported by this version of restart-agent", key.name);
                return wrong(found, message, format!("write {}", example(key)), report);
            }
            let advice = guess::nearest(text, of.iter().copied())
                .map_or_else(|| format!("write {}", example(key)), |near| format!("did you mean \"{near}\"?"));
            wrong(found, format!("{} is no `{}`", quoted(text), key.name), advice, report)
        }
        (Type::Count | Type::Number, Data::Other("an integer")) | (Type::Size | Type::Percent, Data::Text(_)) => {
            match amount::read(key, &found.data, found.place.text()) {
                Ok(amount) => Some(Good::Amount(amount)),
                Err((message, advice)) => wrong(found, message, advice, report),
            }
        }
        (Type::Path | Type::SocketLink | Type::Address | Type::Uri | Type::Unit | Type::Template, Data::Text(text)) => {
            match check(key.takes, text) {
                Ok(()) => Some(Good::Text(Item { text: text.clone(), place: found.place.clone() })),
                Err((message, advice)) => wrong(found, format!("`{}`: {message}", key.name), advice, report),
            }
        }
        (Type::Uris | Type::Argv | Type::Units | Type::Excluded | Type::Names | Type::Programs, Data::Array(items)) => {
            list(key, found, items, report).map(Good::List)
        }
        _ => {
            let text = found.place.text();
            let advice = match (key.takes, &found.data) {
                (Type::Time | Type::TimeAboveZero, Data::Other("an integer")) if text.len() < 20 => {
                    format!("write a number with its unit, in quotes: \"{text}s\" if seconds are meant")
                }
                _ => format!("write {}", example(key)),
            };
            wrong(found, format!("`{}` is {}", key.name, found.data.kind()), advice, report)
        }
    }
}

fn list(key: &Key, found: &Value, items: &[Value], report: &mut Report) -> Option<Vec<Item>> {
    if items.len() > MAX_LIST {
        return wrong(found, format!("`{}` has {} entries, and the limit is {MAX_LIST}", key.name, items.len()), "use globs", report);
    }
    if items.is_empty() && !matches!(key.takes, Type::Uris | Type::Excluded) {
        return wrong(found, format!("`{}` is empty", key.name), format!("write {}", example(key)), report);
    }
    let mut good = Vec::new();
    let mut all = true;
    for (i, item) in items.iter().enumerate() {
        let Data::Text(text) = &item.data else {
            report.at(&item.place, format!("this entry of `{}` is {}", key.name, item.data.kind()), format!("write {}", example(key)));
            all = false;
            continue;
        };
        let verdict = match key.takes {
            Type::Argv if i > 0 => no_nul(text),
            takes => check(takes, text),
        };
        match verdict {
            Ok(()) if key.takes != Type::Argv && good.iter().any(|known: &Item| known.text == *text) => {}
            Ok(()) => good.push(Item { text: text.clone(), place: item.place.clone() }),
            Err((message, advice)) => {
                report.at(&item.place, format!("`{}`: {message}", key.name), advice);
                all = false;
            }
        }
    }
    all.then_some(good)
}

/// One string of a type. No message holds a path or a word of a command: it may be a secret (see [`super::Problem`]).
fn check(takes: Type, text: &str) -> Result<(), units::Wrong> {
    no_nul(text)?;
    match takes {
        Type::Unit => units::check_unit(text),
        Type::Template => units::check_template(text),
        Type::SocketLink if text.starts_with('/') => path(text).and_then(|()| socket_link(text)),
        Type::SocketLink => units::check_socket(text),
        Type::Units | Type::Excluded => units::check(text),
        Type::Names => units::check_process(text),
        Type::Programs => units::check_program(text),
        Type::Address if text.parse::<SocketAddr>().is_ok() => Ok(()),
        Type::Address if !text.starts_with('/') => Err((
            "this is neither an absolute path nor IP:PORT".into(),
            "write \"/run/php/php8.2-fpm-status.sock\" or \"127.0.0.1:9001\"".into(),
        )),
        Type::Argv if !text.starts_with('/') => Err((
            "the command is not an absolute path".into(),
            "write where it is, such as \"/usr/local/bin/depool\"; no PATH is searched".into(),
        )),
        Type::Uri | Type::Uris if !text.starts_with('/') => Err((
            "this does not begin with a slash".into(),
            "write it as a web server would be asked, such as \"/w/health-check.php\"".into(),
        )),
        Type::Path | Type::Address | Type::Argv => path(text),
        _ => Ok(()),
    }
}

fn path(text: &str) -> Result<(), units::Wrong> {
    if !text.starts_with('/') {
        return Err(("this is not an absolute path".into(), "write the whole path, from the first slash on".into()));
    }
    if text.ends_with('/') || text.ends_with("/.") || text.ends_with("/..") {
        return Err(("this is the path of a directory".into(), "write the path of a file".into()));
    }
    if text.len() >= 4096 {
        return Err(("this path is longer than the kernel allows".into(), "at most 4095 bytes".into()));
    }
    Ok(())
}

/// The longest socket beside it is the status socket of a generation with the longest name.
fn socket_link(text: &str) -> Result<(), units::Wrong> {
    let longest = name::directory(text).len() + 1 + name::LONGEST + name::STATUS_SUFFIX.len();
    if longest > name::SUN_PATH {
        let most = name::SUN_PATH - 1 - name::LONGEST - name::STATUS_SUFFIX.len();
        return Err((
            format!("the sockets of generations beside it would have paths of up to {longest} bytes, and {} is the limit", name::SUN_PATH),
            format!("use a directory whose path has at most {most} bytes, such as /run/php/job"),
        ));
    }
    let instance = text.rsplit_once('/').and_then(|(_, file)| file.strip_suffix(".sock")).unwrap_or("current");
    if instance == name::BOOT {
        return Err(("the generation that a boot starts would have its socket in this very place".into(), "name it current.sock".into()));
    }
    Ok(())
}

fn no_nul(text: &str) -> Result<(), units::Wrong> {
    if text.contains('\0') { Err(("this holds a NUL".into(), "remove it".into())) } else { Ok(()) }
}

fn time(text: &str, found: &Value, report: &mut Report) -> Option<Duration> {
    match Span::parse(text) {
        Ok(Span(time)) => Some(time),
        Err(why) if why.ends_with("is longer than ten years") => {
            wrong(found, format!("{} is longer than ten years", quoted(text)), "write less", report)
        }
        Err(_) => {
            let advice = "write a number with ms, s, m, h or d, such as 500ms, 5s, 10m, 24h or 7d";
            wrong(found, format!("{} is not a time", quoted(text)), advice, report)
        }
    }
}

fn wrong<T>(found: &Value, message: String, advice: impl Into<String>, report: &mut Report) -> Option<T> {
    report.at(&found.place, message, advice);
    None
}

fn short(name: &str) -> String {
    name.chars().take(60).collect()
}
