//! docs/operations/traps.md against the tree: each trap has its section, each section its tests, and each test that bears a number its section.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::files;

/// T1 to T42.
const TRAPS: u32 = 42;
const PAGE: &str = "docs/operations/traps.md";

/// `suite: name` of every test whose name ends with the numbers of traps, such as `_t07_t30`.
fn numbered() -> BTreeMap<String, BTreeSet<u32>> {
    let mut tests = BTreeMap::new();
    for path in files("src", "rs").into_iter().chain(files("tests", "rs")) {
        let suite = match path.strip_prefix("tests/") {
            None => "lib",
            Some(rest) => rest.split(['/', '.']).next().unwrap(),
        };
        let text = fs::read_to_string(&path).unwrap();
        let mut attribute = "";
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")) {
            let function =
                line.trim_start_matches("async ").strip_prefix("fn ").filter(|_| attribute.starts_with("#[") && attribute.contains("test"));
            let hosts = line
                .split_once(".on_each(\"")
                .or(line.split_once("on(suite, Release::"))
                .or(line.split_once(".on(Release::"))
                .map(|(_, rest)| rest);
            let name = match (function, hosts) {
                (Some(rest), _) => rest.split('(').next(),
                (None, Some(rest)) => rest.split('"').find(|part| part.contains("_t")),
                (None, None) => None,
            };
            if let Some(name) = name.filter(|name| !numbers(name).is_empty()) {
                tests.insert(format!("{suite}: {name}"), numbers(name));
            }
            attribute = line;
        }
    }
    tests
}

/// 7 and 30 of `a_name_t07_t30`.
fn numbers(name: &str) -> BTreeSet<u32> {
    let number = |part: &str| part.strip_prefix('t').filter(|digits| digits.len() == 2).and_then(|digits| digits.parse().ok());
    name.rsplit('_').map_while(number).collect()
}

/// What stands between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The sections `## T7: title`, by number.
fn sections(page: &str) -> BTreeMap<u32, &str> {
    let mut sections = BTreeMap::new();
    for section in page.split("\n## T").skip(1) {
        let number = section.split(':').next().unwrap().parse().unwrap_or_else(|_| panic!("no number: {section}"));
        assert!(sections.insert(number, section).is_none(), "T{number} is there twice");
    }
    sections
}

#[test]
fn the_page_of_the_traps_names_the_tests_that_there_are() {
    let page = fs::read_to_string(PAGE).unwrap();
    let (tests, sections) = (numbered(), sections(&page));
    assert!(tests.len() > 80, "{} tests bear a number", tests.len());
    let mut wrong = Vec::new();
    for number in 1..=TRAPS {
        let Some(section) = sections.get(&number) else {
            wrong.push(format!("T{number} has no section"));
            continue;
        };
        let named: BTreeSet<&str> = quoted(section).into_iter().filter(|text| !numbers(text).is_empty()).collect();
        for name in &named {
            match tests.get(*name) {
                None => wrong.push(format!("T{number}: there is no test {name}")),
                Some(bears) if !bears.contains(&number) => wrong.push(format!("T{number}: {name} does not bear it")),
                Some(_) => {}
            }
        }
        for (name, _) in tests.iter().filter(|(name, bears)| bears.contains(&number) && !named.contains(name.as_str())) {
            wrong.push(format!("T{number} does not name {name}"));
        }
        if named.is_empty() && !section.contains("not applicable yet") {
            wrong.push(format!("T{number} has no test, and does not say that it is not applicable yet"));
        }
        if ["**Seen.**", "**Done.**"].iter().any(|part| !section.contains(part)) {
            wrong.push(format!("T{number} does not say what is seen and what is done"));
        }
    }
    wrong.extend(sections.keys().filter(|number| !(1..=TRAPS).contains(*number)).map(|number| format!("there is no T{number}")));
    wrong.extend(
        tests
            .iter()
            .filter(|(_, bears)| bears.iter().any(|number| !(1..=TRAPS).contains(number)))
            .map(|(name, _)| format!("{name}: no such trap")),
    );
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
}

/// What a user sees is quoted as the program has it, `…` standing for what differs.
#[test]
fn what_the_page_of_the_traps_quotes_is_what_is_said() {
    let page = fs::read_to_string(PAGE).unwrap();
    let of = |top, ending| files(top, ending).into_iter().filter(|path| !path.ends_with(".snap")).map(|path| fs::read(path).unwrap());
    let said: String = of("src", "rs")
        .chain(of("packaging", ""))
        .chain(of("units", ""))
        .chain(of("docs/operations", "yml"))
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .collect();
    // A string may go on in the next line.
    let said = said.replace("\\\"", "\"");
    let mut wrong = Vec::new();
    for (number, section) in sections(&page) {
        for paragraph in section.split("\n\n").filter(|paragraph| paragraph.starts_with("**Seen.**")) {
            let paragraph = paragraph.replace('\n', " ");
            let pieces = quoted(&paragraph).into_iter().flat_map(|text| text.split('…')).map(str::trim);
            wrong.extend(pieces.filter(|piece| !said.contains(piece)).map(|piece| format!("T{number}: nothing says {piece:?}")));
        }
    }
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
}
