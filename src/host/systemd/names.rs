//! Names of units: which are safe to put into a path, which are patterns, and what D-Bus calls them.

/// What a unit's name may end with.
const TYPES: [&str; 11] = ["service", "socket", "target", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope"];

/// Whether systemd would take this as the name of one unit. Such a name has no `/`, so it can be put into a path.
pub(super) fn is_unit(name: &str) -> bool {
    let Some((prefix, kind)) = name.rsplit_once('.') else { return false };
    name.len() <= 255
        && !prefix.is_empty()
        && !prefix.starts_with(['.', '@'])
        && !prefix.ends_with('@')
        && TYPES.contains(&kind)
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b":-_.\\@".contains(&c))
}

/// The pattern that a configured name stands for, if it is one: a glob, or a template, which stands for its instances.
pub(super) fn pattern(name: &str) -> Option<String> {
    if name.contains(['*', '?', '[']) {
        Some(name.to_owned())
    } else {
        name.split_once("@.").map(|(template, kind)| format!("{template}@*.{kind}"))
    }
}

/// The object path of a unit: everything but ASCII letters and digits as `_xx`, a leading digit too (facts F3.10).
pub(super) fn unit_path(name: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (at, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

/// The number at the end of a job's object path.
pub(super) fn job_id(path: &str) -> Option<u32> {
    path.strip_prefix("/org/freedesktop/systemd1/job/")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_stay_in_their_directory_are_units() {
        for good in ["php8.2-fpm.service", "a@b.service", "queue-worker@x\\x2dy.service", "x.timer", "session-1.scope"] {
            assert!(is_unit(good), "{good}");
        }
        for bad in ["", "x", ".service", "../x.service", "a/b.service", "x.conf", "tpl@.service", "@a.service", "a b.service", "é.service"]
        {
            assert!(!is_unit(bad), "{bad}");
        }
        assert!(!is_unit(&format!("{}.service", "a".repeat(250))));
    }

    #[test]
    fn globs_and_templates_are_patterns() {
        assert_eq!(pattern("job_*.service").as_deref(), Some("job_*.service"));
        assert_eq!(pattern("worker@.service").as_deref(), Some("worker@*.service"));
        assert_eq!(pattern("worker@1.service"), None);
    }

    #[test]
    fn paths_are_escaped_as_systemd_does() {
        assert_eq!(unit_path("tpl@.service"), "/org/freedesktop/systemd1/unit/tpl_40_2eservice");
        assert_eq!(unit_path("1x.service"), "/org/freedesktop/systemd1/unit/_31x_2eservice");
        assert_eq!(job_id("/org/freedesktop/systemd1/job/4711"), Some(4711));
        assert_eq!(job_id("/org/freedesktop/systemd1/job/x"), None);
    }
}
