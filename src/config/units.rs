//! Names and globs of units: which ones may stand in a configuration, and which of them mean the same unit.

use glob::Pattern;

use super::problem::quoted;

/// What is wrong with a name, and what to write.
pub(super) type Wrong = (String, String);

/// What sessions are made of.
const SESSION: [&str; 17] = [
    "sh",
    "bash",
    "-bash",
    "dash",
    "zsh",
    "-zsh",
    "fish",
    "ksh",
    "sshd",
    "login",
    "su",
    "sudo",
    "systemd",
    "(sd-pam)",
    "screen",
    "tmux: server",
    "cron",
];

/// Whether a name stands for the units that match it.
pub(super) fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// Whether a glob stands for this unit, as systemd's ListUnitsByPatterns sees it.
pub(super) fn matches(glob: &str, unit: &str) -> bool {
    Pattern::new(glob).is_ok_and(|pattern| pattern.matches(unit))
}

/// One service that can be restarted by its name.
pub(super) fn check_unit(name: &str) -> Result<(), Wrong> {
    if is_glob(name) {
        return Err((format!("{} is a glob", quoted(name)), "write the name of one service: a target for each php-fpm".into()));
    }
    check(name)
}

/// A template, of which the agent names the instances.
pub(super) fn check_template(name: &str) -> Result<(), Wrong> {
    let Some((stem, suffix)) = name.split_once("@.") else {
        return Err((
            format!("{} is no template", quoted(name)),
            "write one, such as php-fpm-job@.service: each generation is an instance of it".into(),
        ));
    };
    check_unit(&format!("{stem}@instance.{suffix}"))
}

/// A unit that holds a listening socket.
pub(super) fn check_socket(name: &str) -> Result<(), Wrong> {
    match name.strip_suffix(".socket") {
        Some(stem) if !is_glob(name) => check(&format!("{stem}.service")),
        _ => Err((
            format!("{} is neither an absolute path nor the name of a .socket unit", quoted(name)),
            "write the symlink, such as /run/php/job/current.sock, or the unit that holds the port, such as php-fpm-job.socket".into(),
        )),
    }
}

/// One service, or a glob of services.
pub(super) fn check(name: &str) -> Result<(), Wrong> {
    if name.is_empty() {
        return Err(("an empty string is no unit".into(), "write the name of a service, such as php8.2-fpm.service".into()));
    }
    if name.len() > 255 {
        return Err((format!("{} is longer than 255 bytes", quoted(name)), "systemd has no such unit".into()));
    }
    if name.contains('/') {
        return Err((format!("{} is a path", quoted(name)), "write the name of the unit only".into()));
    }
    let Some((stem, suffix)) = name.rsplit_once('.') else { return Err(no_suffix(name)) };
    match suffix {
        "service" => {}
        "timer" => {
            return Err((
                format!("{} is a timer", quoted(name)),
                format!("write the service that it starts, such as \"{}.service\"", short(stem)),
            ));
        }
        "socket" | "target" | "path" | "mount" | "automount" | "swap" | "slice" | "scope" | "device" => {
            return Err((format!("{} is not a service", quoted(name)), "only services can be renewed: write their names".into()));
        }
        _ => return Err(no_suffix(name)),
    }
    if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || ":-_.\\@*?[]!^".contains(*c))) {
        return Err((format!("{} holds {bad:?}, which no unit's name does", quoted(name)), "write the name as systemctl shows it".into()));
    }
    if stem.is_empty() {
        return Err((format!("{} has no name before the suffix", quoted(name)), "write the name as systemctl shows it".into()));
    }
    if stem.ends_with('@') {
        return Err((
            format!("{} is a template, which never runs itself", quoted(name)),
            format!("write its instances: \"{}*.service\"", short(stem)),
        ));
    }
    if let Err(error) = Pattern::new(name) {
        return Err((format!("{} is not a glob: {}", quoted(name), error.msg), "use *, ? and [abc] only".into()));
    }
    Ok(())
}

/// The name of a process, or a glob of such.
pub(super) fn check_process(name: &str) -> Result<(), Wrong> {
    if name.is_empty() {
        return Err(("an empty string is no process".into(), "write the name of a program, such as \"php*\"".into()));
    }
    if name.len() > 255 {
        return Err((format!("{} is longer than 255 bytes", quoted(name)), "no file has such a name".into()));
    }
    if name.contains('/') {
        return Err((format!("{} is a path", quoted(name)), "write the last part only, such as \"php*\"".into()));
    }
    if let Err(error) = Pattern::new(name) {
        return Err((format!("{} is not a glob: {}", quoted(name), error.msg), "use *, ? and [abc] only".into()));
    }
    Ok(())
}

/// The same, where a process may be sent a signal by its name: not what a session is made of, or of what keeps it.
pub(super) fn check_program(name: &str) -> Result<(), Wrong> {
    check_process(name)?;
    match SESSION.into_iter().find(|program| *program == name || matches(name, program)) {
        Some(program) => Err((
            format!("{} matches {program} as well", quoted(name)),
            "write the names of interpreters, such as \"php*\": a person's shell or session is never stopped".into(),
        )),
        None => Ok(()),
    }
}

fn no_suffix(name: &str) -> Wrong {
    (format!("{} has no unit suffix", quoted(name)), format!("write \"{}.service\"", short(name)))
}

fn short(name: &str) -> String {
    name.chars().take(60).collect()
}
