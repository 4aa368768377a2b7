//! Where a setting stands: the files of php-fpm and of units, line by line. Pure.

use super::seen::{Files, UnitSettings};

/// php-fpm itself goes no deeper.
const INCLUDE_DEPTH: u32 = 5;

/// One setting of php-fpm's files, in the order in which php-fpm reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'f> {
    pub file: &'f str,
    pub number: u32,
    pub section: &'f str,
    /// Empty for the head of a section.
    pub key: &'f str,
    pub value: &'f str,
    /// As it stands there.
    pub raw: &'f str,
}

/// All settings from `root` on, with includes where they are included.
#[must_use]
pub fn lines<'f>(files: &'f Files, root: &str) -> Vec<Line<'f>> {
    let mut found = Vec::new();
    if let Some((path, text)) = files.get_key_value(root) {
        read(files, path, text, &mut "", 0, &mut found);
    }
    found
}

fn read<'f>(files: &'f Files, path: &'f str, text: &'f str, section: &mut &'f str, depth: u32, found: &mut Vec<Line<'f>>) {
    for (raw, number) in text.lines().map(str::trim).zip(1..) {
        if let Some(name) = raw.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            *section = name.trim();
            found.push(Line { file: path, number, section, key: "", value: "", raw });
            continue;
        }
        let Some((key, value)) = setting(raw) else { continue };
        if key != "include" {
            found.push(Line { file: path, number, section, key, value, raw });
        } else if let (Ok(pattern), true) = (glob::Pattern::new(value), depth < INCLUDE_DEPTH) {
            for (path, text) in files.iter().filter(|(path, _)| fits(&pattern, path)) {
                read(files, path, text, section, depth + 1, found);
            }
        }
    }
}

/// As glob(3) does it: `*` does not reach into a directory.
fn fits(pattern: &glob::Pattern, path: &str) -> bool {
    let options = glob::MatchOptions { require_literal_separator: true, require_literal_leading_dot: true, case_sensitive: true };
    pattern.matches_with(path, options)
}

/// The patterns that a file of php-fpm includes.
#[must_use]
pub fn includes(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| setting(line.trim())).filter(|(key, _)| *key == "include").map(|(_, value)| value.to_owned()).collect()
}

/// `key = value ; comment`, the value without its quotes.
#[must_use]
pub fn setting(line: &str) -> Option<(&str, &str)> {
    if line.starts_with([';', '#']) {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let value = value.trim();
    let value = match value.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
        Some((inside, _)) => inside,
        None => value.split(';').next().unwrap_or_default().trim(),
    };
    Some((key.trim(), value))
}

/// Where a key of a section is set, the last place; else where the section begins.
#[must_use]
pub fn place<'l, 'f>(lines: &'l [Line<'f>], section: &str, key: &str) -> Option<&'l Line<'f>> {
    let of = |wanted: &'l str| lines.iter().rev().find(move |line| line.section == section && line.key == wanted);
    lines.iter().rev().find(|line| line.section == section && line.key == key).or_else(|| of(""))
}

/// One setting of a unit's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitLine<'u> {
    pub file: &'u str,
    pub number: u32,
    pub section: &'u str,
    pub key: &'u str,
    pub value: String,
}

/// All settings of a unit, in the order in which systemd reads them; continued lines are joined.
#[must_use]
pub fn unit_lines(unit: &UnitSettings) -> Vec<UnitLine<'_>> {
    let mut found: Vec<UnitLine<'_>> = Vec::new();
    for (file, text) in &unit.files {
        let (mut section, mut goes_on) = ("", false);
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let (line, more) = line.strip_suffix('\\').map_or((line, false), |line| (line.trim_end(), true));
            if let (true, Some(last)) = (goes_on, found.last_mut()) {
                last.value.push(' ');
                last.value.push_str(line);
            } else if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
            } else if let Some((key, value)) = line.split_once('=') {
                found.push(UnitLine { file, number, section, key: key.trim_end(), value: value.trim_start().to_owned() });
            }
            goes_on = more;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_read_where_they_stand() {
        let files: Files = [
            ("/etc/fpm/php-fpm.conf", "; x = y\n[global]\npid = /run/x.pid ; old\ninclude=\"/etc/fpm/pool.d/*.conf\"\n"),
            ("/etc/fpm/pool.d/a.conf", "[a]\nlisten = /run/a.sock\nphp_value[x] = \"1;2\"\n"),
            ("/etc/fpm/pool.d/sub/c.conf", "[c]\n"),
            ("/etc/fpm/pool.d/b.conf", "listen=/run/b.sock\n[b]\n"),
        ]
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .into();
        let lines = lines(&files, "/etc/fpm/php-fpm.conf");
        let short: Vec<_> = lines.iter().map(|line| (line.section, line.key, line.value)).collect();
        assert_eq!(
            short,
            [
                ("global", "", ""),
                ("global", "pid", "/run/x.pid"),
                ("a", "", ""),
                ("a", "listen", "/run/a.sock"),
                ("a", "php_value[x]", "1;2"),
                ("a", "listen", "/run/b.sock"),
                ("b", "", "")
            ]
        );
        let place = |section, key| place(&lines, section, key).map(|line| (line.file, line.number));
        assert_eq!(place("a", "listen"), Some(("/etc/fpm/pool.d/b.conf", 1)));
        assert_eq!(place("a", "pm"), Some(("/etc/fpm/pool.d/a.conf", 1)));
        assert_eq!(place("d", "pm"), None);
        assert_eq!(includes(files.get("/etc/fpm/php-fpm.conf").unwrap()), ["/etc/fpm/pool.d/*.conf"]);
    }

    #[test]
    fn a_file_that_includes_itself_ends() {
        let files: Files = [("/x".to_owned(), "a = 1\ninclude = /x\n".to_owned())].into();
        assert_eq!(lines(&files, "/x").len(), 6);
    }

    #[test]
    fn continued_lines_are_one() {
        let unit = UnitSettings {
            files: vec![
                ("/a".to_owned(), "[Service]\n# no\nExecStart=/bin/x \\\n  --y\nNice=1\n".to_owned()),
                ("/b".to_owned(), "[Service]\nNice = 2".to_owned()),
            ],
            ..UnitSettings::default()
        };
        let found: Vec<_> =
            unit_lines(&unit).into_iter().map(|line| format!("{}:{} {}={}", line.file, line.number, line.key, line.value)).collect();
        assert_eq!(found, ["/a:3 ExecStart=/bin/x --y", "/a:5 Nice=1", "/b:2 Nice=2"]);
    }
}
