//! What generations are called: the unit, the instance, the socket.

/// Longest name of an instance.
pub const LONGEST: usize = 24;
/// The instance that the boot starts.
pub const BOOT: &str = "boot";
/// What follows the instance in the longest name of a socket.
pub const STATUS_SUFFIX: &str = ".status.sock";
/// `sun_path` of unix(7), without its NUL.
pub const SUN_PATH: usize = 107;

/// A name that nobody else has, readable, made from the deploy's id and a counter: `[a-z0-9-]`, at most [`LONGEST`] of them.
#[must_use]
pub fn instance(id: &str, counter: u64) -> String {
    let counter = counter.to_string();
    let mut name = String::new();
    for c in id.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => name.push(c),
            _ if name.is_empty() || name.ends_with('-') => {}
            _ => name.push('-'),
        }
        if name.len() + 1 + counter.len() >= LONGEST {
            break;
        }
    }
    let stem = name.trim_end_matches('-');
    format!("{}-{counter}", if stem.is_empty() { "deploy" } else { stem })
}

/// `php-fpm-job@.service` with this instance.
#[must_use]
pub fn unit_of(template: &str, instance: &str) -> String {
    template.replacen("@.", &format!("@{instance}."), 1)
}

/// The instance of this unit, if it is one of this template.
#[must_use]
pub fn instance_of<'u>(template: &str, unit: &'u str) -> Option<&'u str> {
    let (before, after) = template.split_once("@.")?;
    let instance = unit.strip_prefix(before)?.strip_prefix('@')?.strip_suffix(after)?.strip_suffix('.')?;
    (!instance.is_empty()).then_some(instance)
}

/// The directory of the symlink, in which each generation has its sockets.
#[must_use]
pub fn directory(socket: &str) -> &str {
    socket.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// Where a generation listens (facts 12): beside the symlink, by its own name.
#[must_use]
pub fn socket_of(socket: &str, instance: &str) -> String {
    format!("{}/{instance}.sock", directory(socket))
}

/// Whether this unit, of whichever template, is the one that listens there.
#[must_use]
pub fn listens_at(unit: &str, socket: &str) -> bool {
    let instance = unit.split_once('@').and_then(|(_, rest)| rest.rsplit_once('.'));
    instance.is_some_and(|(instance, _)| socket_of(socket, instance) == socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_and_fit() {
        assert_eq!(instance("v1.2/Main branch", 7), "v1-2-main-branch-7");
        assert_eq!(instance("2026-11-22T22:15:20.123Z", 12), "2026-11-22t22-15-20-1-12");
        assert_eq!(instance("…", 3), "deploy-3");
        assert_eq!(instance("", u64::MAX).len(), 27);
        for (id, counter) in [("x".repeat(300), 0), ("--a--b--".to_owned(), 99_999), ("ä".repeat(40), 5), ("a-".repeat(40), 123_456)] {
            let name = instance(&id, counter);
            let good = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
            assert!(name.len() <= LONGEST && name.chars().all(good) && !name.starts_with('-') && !name.contains("--"), "{name}");
        }
    }

    #[test]
    fn an_instance_is_told_from_its_unit() {
        let template = "php-fpm-job@.service";
        assert_eq!(unit_of(template, "v1-2"), "php-fpm-job@v1-2.service");
        assert_eq!(instance_of(template, "php-fpm-job@v1-2.service"), Some("v1-2"));
        for other in ["php-fpm-job@.service", "php-fpm-jobs@a.service", "php-fpm-job.service", "php-fpm-job@a.socket", ""] {
            assert_eq!(instance_of(template, other), None, "{other}");
        }
        assert_eq!(socket_of("/run/php/job/current.sock", "v1-2"), "/run/php/job/v1-2.sock");
        assert!(listens_at("php-fpm-job@v1-2.service", "/run/php/job/v1-2.sock"));
        assert!(!listens_at("php-fpm-job@v1-2.service", "/run/php/job/v1-2.status.sock"));
        assert!(!listens_at("php-fpm-job@v1-2.service", "/run/php/job/v1-23.sock"));
    }
}
