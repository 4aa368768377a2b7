//! Where packages come from: the machine's own apt configuration, with the suite swapped.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::Release;

const ARCHIVE_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const TRUSTED_KEYS: &str = "/etc/apt/trusted.gpg.d";

/// How the machine reaches a mirror, as `apt-config dump` prints it; the rest of its settings is its own.
const SETTINGS: [&str; 5] = ["Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv"];

/// Lines for a sources.list with `release`, from the mirrors that this machine uses for its own.
///
/// # Errors
/// When the machine is not a Debian with apt sources of its own release.
pub(crate) fn sources(release: Release) -> Result<Vec<String>> {
    let own = own_codename()?;
    let targets =
        output("apt-get", &["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)", "Identifier: Packages"])?;
    let lines = swap(&targets, &own, release, &signed_by());
    ensure!(!lines.is_empty(), "apt of this machine has no Debian source for {own}: {targets}");
    Ok(lines)
}

/// The machine's apt settings that decide how a mirror is reached (proxies and the like).
pub(crate) fn settings() -> Result<Vec<String>> {
    let dump = output("apt-config", &["dump"])?;
    Ok(dump
        .lines()
        .filter(|line| SETTINGS.iter().any(|setting| line.starts_with(setting)))
        .filter(|line| !line.ends_with(" \"\";"))
        .map(str::to_owned)
        .collect())
}

fn swap(targets: &str, own: &str, release: Release, options: &str) -> Vec<String> {
    // One line per suite, its components together, in the order of the suites' names.
    let mut components: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for line in targets.lines() {
        let mut fields = line.split(' ');
        let (Some(uri), Some(suite), Some(component)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let is_debian = match fields.next() {
            Some("Debian") => true,
            // Before the first `apt-get update` apt does not know who publishes a source.
            Some("$(ORIGIN)" | "") | None => {
                let path = uri.trim_end_matches('/');
                path.ends_with("/debian") || path.ends_with("/debian-security")
            }
            Some(_) => false,
        };
        let rest = suite.strip_prefix(own).filter(|rest| matches!(*rest, "" | "-updates" | "-security"));
        let (true, Some(rest)) = (is_debian, rest) else { continue };
        let suite = format!("{}{rest}", release.codename());
        let known = components.entry((suite, uri.to_owned())).or_default();
        if component == "main" && !known.contains(&component) {
            known.push(component);
        }
    }
    components
        .into_iter()
        .filter(|(_, components)| !components.is_empty())
        .map(|((suite, uri), components)| format!("deb {options}{uri} {suite} {}", components.join(" ")))
        .collect()
}

/// Where apt trusts no key by default, the archive's keyring must be named.
fn signed_by() -> String {
    let trusted = fs::read_dir(TRUSTED_KEYS).is_ok_and(|mut keys| keys.next().is_some());
    if !trusted && Path::new(ARCHIVE_KEYRING).exists() { format!("[signed-by={ARCHIVE_KEYRING}] ") } else { String::new() }
}

fn own_codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release has no VERSION_CODENAME")
}

fn output(command: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(command).args(arguments).output().with_context(|| format!("cannot run {command}"))?;
    if !output.status.success() {
        bail!("{command} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_is_swapped_and_foreign_sources_are_left_out() {
        let targets = "http://mirror.example/debian/ bookworm main Debian\n\
             http://mirror.example/debian/ bookworm contrib Debian\n\
             http://mirror.example/debian/ bookworm-backports main Debian\n\
             http://mirror.example/debian-security/ bookworm-security main $(ORIGIN)\n\
             http://other.example/apt/ bookworm main Somebody\n\
             http://other.example/apt/ bookworm main $(ORIGIN)\n";
        assert_eq!(
            swap(targets, "bookworm", Release::Trixie, ""),
            ["deb http://mirror.example/debian/ trixie main", "deb http://mirror.example/debian-security/ trixie-security main",]
        );
    }
}
