//! `doctor`: every trap of this host, with the line that mends each.

use std::fmt::Write;

use super::args::{DoctorArgs, Places};
use super::bus::runtime;
use super::exit::Exit;
use super::output::Output;
use super::phrase::count;
use crate::config::Roots;
use crate::core::doctor::{Finding, Report};
use crate::engine::doctor::{self, Options};

pub fn run(args: &DoctorArgs, places: &Places, out: &Output) -> Exit {
    let report = match look(places, out, doctor::examine) {
        Ok(report) => report,
        Err(exit) => return exit,
    };
    let shown = if args.json {
        out.json(&report)
    } else {
        out.say(&page(&report));
        Exit::Done
    };
    if report.clean() { shown } else { Exit::Failed }
}

/// Looks at the host as root, or says why not.
pub fn look<T, F: Future<Output = anyhow::Result<T>>>(places: &Places, out: &Output, how: impl FnOnce(Options) -> F) -> Result<T, Exit> {
    if !nix::unistd::geteuid().is_root() {
        return Err(out.needs_root());
    }
    let options = Options { roots: Roots::default(), run_dir: places.run_dir.clone(), bus: places.bus.clone() };
    runtime(out)?.block_on(how(options)).map_err(|error| out.fail(Exit::Failed, &format!("{error:#}")))
}

/// The report as text.
pub fn page(report: &Report) -> String {
    let mut text = String::new();
    let _ = match report.findings.len() {
        0 if report.unknown.is_empty() => writeln!(text, "Nothing was found that hurts."),
        0 => writeln!(text, "Nothing was found that hurts, but not everything could be looked at."),
        number => writeln!(text, "{}.", count(number, "finding", "findings")),
    };
    let mut heads: Vec<String> = Vec::new();
    for head in report.findings.iter().map(head) {
        if !heads.contains(&head) {
            heads.push(head);
        }
    }
    for this in heads {
        let _ = write!(text, "\n{this}\n");
        for finding in report.findings.iter().filter(|finding| head(finding) == this) {
            one(&mut text, finding);
        }
    }
    if !report.unknown.is_empty() {
        text.push_str("\nCould not be looked at:\n");
        for why in &report.unknown {
            let _ = writeln!(text, "  {why}");
        }
    }
    for pool in &report.generations {
        let name = pool.pool.as_ref().map(|pool| format!(", pool {pool}")).unwrap_or_default();
        let _ = match (&pool.command, &pool.refused) {
            (Some(command), _) => write!(
                text,
                "\n{}{name} could serve every deploy from a generation of its own, with no request lost and no depool:\n  {command}\n\
                 writes the files for review. In place of the lines that it has, or beside them:\n",
                pool.unit
            ),
            (None, why) => writeln!(text, "\n{}{name} cannot become generations: {}", pool.unit, why.as_deref().unwrap_or_default()),
        };
        for line in &pool.lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn head(finding: &Finding) -> String {
    let mut head = finding.about.clone();
    if let Some(pool) = &finding.pool {
        let _ = write!(head, ", pool {pool}");
    }
    if let Some(target) = &finding.target {
        let _ = write!(head, " (target {target})");
    }
    head
}

fn one(text: &mut String, finding: &Finding) {
    let Finding { id, what, costs, mend, .. } = finding;
    let _ = writeln!(text, "  {id}: {what}\n    costs: {costs}");
    if !mend.file.is_empty() {
        let line = mend.line.map(|line| format!(":{line}")).unwrap_or_default();
        let section = if mend.section.is_empty() { String::new() } else { format!(", in [{}]", mend.section) };
        let _ = writeln!(text, "    mend:  {}{line}{section}", mend.file);
    }
    for line in &mend.write {
        let _ = writeln!(text, "             {line}");
    }
    if !mend.then.is_empty() {
        let _ = writeln!(text, "    then:  {}", mend.then);
    }
}
