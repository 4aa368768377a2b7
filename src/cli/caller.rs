//! Which unit a command was called by: what `should-stop` and `protect` are about.

use std::path::Path;

/// The service whose cgroup this process is in; `None` outside of every system service.
pub fn unit(cgroup_file: &Path) -> Option<String> {
    unit_of(&std::fs::read_to_string(cgroup_file).ok()?)
}

/// From the content of /proc/self/cgroup. The first service on the way counts: what is below it is that service's own affair, and a user's
/// services are below `user@UID.service`.
fn unit_of(text: &str) -> Option<String> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.split('/').find(|part| part.ends_with(".service")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_service_on_the_way_is_the_callers() {
        for (text, unit) in [
            ("0::/system.slice/job-a.service\n", Some("job-a.service")),
            ("0::/system.slice/system-job.slice/job@a.service/sub/x.service\n", Some("job@a.service")),
            ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n", Some("user@1000.service")),
            ("12:pids:/a.service\n", None),
            ("", None),
        ] {
            assert_eq!(unit_of(text).as_deref(), unit, "{text}");
        }
    }
}
