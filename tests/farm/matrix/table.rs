//! docs/reference/outcomes.md: what was seen, as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::Release;

use super::cases::{KINDS, RULES, SCRIPTS};

const PAGE: &str = "docs/reference/outcomes.md";

const HEAD: &str = r#"# What becomes of a running script

<!-- Made by `UPDATE=1 cargo test --test farm -- matrix`, which compares it otherwise. -->

One unit for each cell ran when a deploy landed, on a real Debian 12 and a real Debian 13: a rule of its target, what starts it, and how the script
takes its end. The words are what systemd, the processes and the scripts themselves showed.

| word | meaning |
|---|---|
| SIGTERM | ended by SIGTERM within `term_timeout` |
| SIGKILL | something of it was left after `term_timeout`, and was killed |
| checkpoint | was asked (`checkpoint_timeout`), and ended by itself with exit status 75 |
| again | runs again with the new code |
| quiet | stays quiet until its timer's next run, which is when it was before |
| down | stays quiet, and no timer has a next run for it |
| goes on | was not touched, or only asked; `status` names it as left |

In no cell did the unit turn failed, was its OnFailure= started, was it started when it should not, did a later ExecStart= run, was a process left
over, or did a timer stop or lose its next run. A slot had passed in vain while the scripts ran: it started none of them.

"#;

/// By the name of the case.
pub type Outcomes = BTreeMap<String, String>;

/// The page, from what was seen on each release.
pub fn render(seen: &BTreeMap<Release, Outcomes>) -> Result<String> {
    let mut page = HEAD.to_owned();
    let titles: Vec<&str> = SCRIPTS.iter().map(|script| script.title()).collect();
    for rule in RULES {
        let _ = writeln!(page, "## {}\n\n| started by | {} |\n|{}", rule.title(), titles.join(" | "), "---|".repeat(SCRIPTS.len() + 1));
        for kind in KINDS {
            let cells: Vec<String> =
                SCRIPTS.iter().map(|script| cell(seen, &format!("{}.{kind:?}.{script:?}", rule.name()))).collect::<Result<_>>()?;
            let _ = writeln!(page, "| {} | {} |", kind.title(), cells.join(" | "));
        }
        page.push('\n');
    }
    page.truncate(page.trim_end().len() + 1);
    Ok(page)
}

/// One word for both releases, or what was seen on each.
fn cell(seen: &BTreeMap<Release, Outcomes>, name: &str) -> Result<String> {
    let words = |outcomes: &Outcomes| outcomes.get(name).cloned().with_context(|| format!("no outcome of {name}"));
    let all: Vec<(Release, String)> = seen.iter().map(|(release, outcomes)| Ok((*release, words(outcomes)?))).collect::<Result<_>>()?;
    let first = &all.first().context("no release")?.1;
    if all.iter().all(|(_, words)| words == first) {
        return Ok(first.clone());
    }
    Ok(all.iter().map(|(release, words)| format!("Debian {}: {words}", release.number())).collect::<Vec<_>>().join("; "))
}

/// Writes the page with `UPDATE=1`; else it must be as it is.
pub fn write_or_compare(seen: &BTreeMap<Release, Outcomes>) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = render(seen)?;
    if std::env::var_os("UPDATE").is_some() {
        return Ok(std::fs::write(path, page)?);
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<&str> = page.lines().filter(|line| !written.lines().any(|old| old == *line)).collect();
    ensure!(page == written, "{PAGE} is out of date: UPDATE=1 cargo test --test farm -- matrix\n{}", changed.join("\n"));
    Ok(())
}
