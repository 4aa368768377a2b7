//! The house is as docs/ARCHITECTURE.md says: who imports whom, how long a file is, what is nowhere to be found, and that the pictures
//! of the machine show the states that it has.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test")]

#[path = "architecture/traps.rs"]
mod traps;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may import. A room that is missing here may import nothing.
const ROOMS: [(&str, &[&str]); 8] = [
    ("core", &[]),
    ("config", &["core"]),
    ("host", &["core", "config"]),
    ("store", &["core"]),
    ("engine", &["core", "config", "host", "store"]),
    ("bus", &["core", "engine"]),
    ("cli", &["core", "config", "store", "engine", "bus"]),
    ("main", &["cli"]),
];
/// File, what it imports all the same, and why.
const EXCEPTIONS: [(&str, &str, &str); 3] = [
    ("src/bus/allowed.rs", "host", "asks polkit about a caller, over the host's bus"),
    ("src/bus/serve.rs", "host", "asks polkit about a caller, over the host's bus"),
    ("src/cli/daemon.rs", "host", "says where the host's things are, and calls nothing of it"),
];
/// What `core` may use of the standard library and of others: nothing that knows a clock, a file, a process or chance.
const CORE_MAY_USE: [&str; 8] =
    ["std::collections::", "std::fmt", "std::net", "std::time::Duration", "std::ops", "std::cmp", "std::borrow", "std::str"];
const CRATES_OF_CORE: [&str; 4] = ["serde", "jiff", "thiserror", "sha2"];

/// Lines of a file, tests aside.
const LONGEST: usize = 380;

#[test]
fn rooms_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for file in sources() {
        let room = room(&file.path);
        let may = ROOMS.iter().find(|(name, _)| *name == room).map_or(&[][..], |(_, may)| *may);
        for (line, path) in paths(&file) {
            let Some(other) = path.get(1).filter(|_| path[0] == "crate") else { continue };
            let known = ROOMS.iter().any(|(name, _)| name == other);
            let excepted = EXCEPTIONS.iter().any(|(excepted, room, _)| *excepted == file.path && room == other);
            if known && *other != room && !may.contains(&other.as_str()) && !excepted {
                wrong.push(format!("{}:{line} imports {other}, which {room} may not", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn parts_of_the_host_know_nothing_of_one_another() {
    let mut wrong = Vec::new();
    for file in sources().into_iter().filter(|file| file.path.starts_with("src/host/")) {
        let part = module(&file.path).get(2).cloned().unwrap_or_default();
        if part.is_empty() || part == "units" {
            continue;
        }
        for (line, path) in paths(&file) {
            let other = path.get(2).filter(|_| path.len() > 2 && path[1] == "host");
            let a_part = |name: &str| Path::new(&format!("src/host/{name}.rs")).exists() || Path::new(&format!("src/host/{name}")).exists();
            if let Some(other) = other.filter(|other| **other != part && a_part(other)) {
                wrong.push(format!("{}:{line} imports {other}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "put together in src/host/mod.rs or units.rs instead:\n{}", wrong.join("\n"));
}

#[test]
fn core_uses_nothing_that_knows_the_world() {
    let mut wrong = Vec::new();
    for file in sources().into_iter().filter(|file| file.path.starts_with("src/core/")) {
        for (number, line) in file.code() {
            let Some(used) = line.trim().strip_prefix("use ").or(line.trim().strip_prefix("pub use ")) else { continue };
            let first = used.split([':', ';', ' ']).next().unwrap_or_default();
            let good = match first {
                "std" => CORE_MAY_USE.iter().any(|may| used.starts_with(may)),
                "crate" | "super" | "self" => true,
                other => CRATES_OF_CORE.contains(&other) || other.starts_with(char::is_uppercase) || file.declares(other),
            };
            if !good {
                wrong.push(format!("{}:{number} {line}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_fit_a_readers_head() {
    let mut wrong = Vec::new();
    for file in sources() {
        let lines = file.code().count();
        if lines > LONGEST {
            wrong.push(format!("{} has {lines} lines, tests aside, of {LONGEST}", file.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_panics_outside_of_tests() {
    let forbidden = [".unwrap()", ".expect(", "panic!(", "unreachable!(", "todo!(", "unimplemented!(", "assert!(", "assert_eq!("];
    let mut wrong = found_in(sources(), &forbidden);
    // The compiler looks at these.
    wrong.retain(|line| !line.contains(" const "));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_test_sleeps_to_wait_for_something() {
    // lab::wait_for looks again after a pause; it is how tests wait.
    // In src/host/fpm/tests.rs a peer is slow on purpose.
    let waits = |path: &str| ["tests/lab/src/wait.rs", "src/host/fpm/tests.rs", "tests/architecture.rs"].contains(&path);
    let tests = files("tests", "rs").into_iter().chain(files("src", "rs").into_iter().filter(|path| is_test(path)));
    let tests = tests.filter(|path| !waits(path)).map(File::read_whole).collect();
    let wrong = found_in(tests, &["thread::sleep(", "time::sleep("]);
    assert!(wrong.is_empty(), "wait for a state with a deadline instead:\n{}", wrong.join("\n"));
}

#[test]
fn no_path_of_somebodys_machine_is_left() {
    // Not written out, or this file would be found.
    let paths = [["/wo", "rk/"], ["/tmp", "/wt-"], ["/tmp", "/target"], ["/root/", "."], ["/ho", "me/"]].map(|parts| parts.concat());
    let words: Vec<&str> = paths.iter().map(String::as_str).collect();
    let mut wrong = Vec::new();
    for top in ["src", "tests", "docs", "packaging", "units", ".ci"] {
        wrong.extend(found_in(files(top, "").into_iter().map(File::read_whole).collect(), &words));
    }
    for name in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Cargo.toml", "clippy.toml"] {
        wrong.extend(found_in(vec![File::read_whole(name.to_owned())], &words));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Before each picture in docs/ARCHITECTURE.md: `<!-- states: FILE ENUM -->`.
#[test]
fn the_pictures_of_the_machine_have_its_states() {
    let text = fs::read_to_string("docs/ARCHITECTURE.md").unwrap();
    let mut pictures = 0;
    for part in text.split("<!-- states: ").skip(1) {
        let (of, rest) = part.split_once(" -->").unwrap();
        let (path, name) = of.split_once(' ').unwrap();
        let picture = rest.split("```mermaid").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let (shown, known) = (shown(picture), variants(&fs::read_to_string(path).unwrap(), name));
        let missing: Vec<_> = known.difference(&shown).collect();
        let extra: Vec<_> = shown.difference(&known).collect();
        assert!(
            missing.is_empty() && extra.is_empty(),
            "the picture of {name} in {path} lacks {missing:?}, and shows {extra:?} that is not there"
        );
        pictures += 1;
    }
    assert!(pictures >= 4, "{pictures} pictures");
}

/// The runbook and the words that status prints.
#[test]
fn the_runbook_has_every_state() {
    let runbook = fs::read_to_string("docs/operations/runbook.md").unwrap();
    let status = fs::read_to_string("src/core/status.rs").unwrap();
    for name in ["State", "TargetState"] {
        for word in variants(&status, name).iter().map(|variant| variant.to_lowercase()) {
            assert!(runbook.contains(&format!("| `{word}` |")), "no row of docs/operations/runbook.md is about {word}");
        }
    }
}

/// The states of a mermaid stateDiagram: whatever an arrow leaves or leads to.
fn shown(picture: &str) -> BTreeSet<String> {
    let ends = picture.lines().filter_map(|line| line.split_once("-->"));
    let ends = ends.flat_map(|(from, to)| [from.trim().to_owned(), to.split(':').next().unwrap_or_default().trim().to_owned()]);
    ends.filter(|state| state != "[*]").collect()
}

/// The variants of an enum, without what they carry.
fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let (_, body) = source.split_once(&format!("enum {name} {{")).unwrap_or_else(|| panic!("no enum {name}"));
    let mut depth = 1;
    let mut found = BTreeSet::new();
    for line in body.lines() {
        let line = line.trim();
        if depth == 1 && line.starts_with(char::is_uppercase) {
            found.insert(line.chars().take_while(char::is_ascii_alphanumeric).collect());
        }
        depth += line.matches(['{', '(']).count();
        depth -= line.matches(['}', ')']).count();
        if depth == 0 {
            return found;
        }
    }
    panic!("enum {name} has no end");
}

struct File {
    path: String,
    text: String,
}

impl File {
    /// Without its tests.
    fn read(path: String) -> File {
        let mut file = File::read_whole(path);
        if let Some(tests) = file.text.find("\n#[cfg(test)]\nmod tests {") {
            file.text.truncate(tests);
        }
        file
    }

    fn read_whole(path: String) -> File {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        File { path, text }
    }

    /// Number and text of each line.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(number, line)| (number + 1, line))
    }

    fn declares(&self, module: &str) -> bool {
        self.text.contains(&format!("mod {module};"))
    }
}

fn found_in(files: Vec<File>, forbidden: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in files {
        for (number, line) in file.code().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if forbidden.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{number} {}", file.path, line.trim()));
            }
        }
    }
    wrong
}

/// All of src, tests aside.
fn sources() -> Vec<File> {
    files("src", "rs").into_iter().filter(|path| !is_test(path)).map(File::read).collect()
}

/// Whether a file is a module that its parent has under `#[cfg(test)]`.
fn is_test(path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or_default();
    let declared = format!("#[cfg(test)]\nmod {};", name.trim_end_matches(".rs"));
    [format!("{directory}/mod.rs"), format!("{directory}.rs")]
        .iter()
        .any(|parent| fs::read_to_string(parent).is_ok_and(|text| text.contains(&declared)))
}

fn files(top: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from(top)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            } else if ending.is_empty() || path.extension().is_some_and(|found| found == ending) {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// `core` of src/core/fpm.rs; `main` of src/main.rs.
fn room(path: &str) -> String {
    module(path).get(1).cloned().unwrap_or_else(|| "lib".to_owned())
}

/// `crate`, `host`, `fpm`, `cache` of src/host/fpm/cache.rs.
fn module(path: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let parts = inside.split('/').filter(|part| *part != "mod" && *part != "lib");
    ["crate"].into_iter().chain(parts).map(str::to_owned).collect()
}

/// Every path in a file that begins with `crate::` or `super::`, made absolute, with its line. Of `{a, b}` each is one.
fn paths(file: &File) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let code: String =
        file.text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect::<Vec<_>>().join("\n");
    for (at, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let before = &code[..at];
        if before.ends_with("super::") || before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let mut path = vec!["crate".to_owned()];
        let mut rest = &code[at..];
        if let Some(inside) = rest.strip_prefix("crate::") {
            rest = inside;
        } else {
            path = module(&file.path);
            while let Some(inside) = rest.strip_prefix("super::") {
                path.pop();
                rest = inside;
            }
        }
        let line = before.matches('\n').count() + 1;
        for names in expand(rest) {
            found.push((line, path.iter().cloned().chain(names).collect()));
        }
    }
    found
}

/// `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(text: &str) -> Vec<Vec<String>> {
    if let Some(inside) = text.strip_prefix('{') {
        let mut depth = 0;
        let mut items = vec![String::new()];
        for c in inside.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    items.push(String::new());
                    continue;
                }
                _ => {}
            }
            if let Some(item) = items.last_mut() {
                item.push(c);
            }
        }
        return items.iter().flat_map(|item| expand(item.trim())).collect();
    }
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() {
        return vec![Vec::new()];
    }
    match text[name.len()..].strip_prefix("::") {
        Some(rest) => expand(rest).into_iter().map(|names| [name.clone()].into_iter().chain(names).collect()).collect(),
        None => vec![vec![name]],
    }
}

/// `tests/mutants` takes hours, and would say only then that a bug has no place any more.
#[test]
fn each_deliberate_bug_has_its_place() {
    let list = fs::read_to_string("tests/mutants.list").unwrap();
    let (mut name, mut file, mut bugs, mut wrong) = ("", "", 0, Vec::new());
    for line in list.lines() {
        match line.split_once(' ') {
            Some(("name", rest)) => name = rest,
            Some(("file", rest)) => file = rest,
            Some(("old", rest)) => {
                let source = fs::read_to_string(Path::new("src").join(file)).unwrap();
                bugs += 1;
                match source.lines().filter(|line| line.contains(rest)).count() {
                    1 => {}
                    times => wrong.push(format!("{name}: `{rest}` is {times} times in {file}")),
                }
            }
            _ => {}
        }
    }
    assert!(bugs >= 30, "{bugs} bugs");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
