//! Where a process runs, by its cgroup, and what may be done to it there.

use crate::core::generations::name::instance_of;
use crate::core::policy::{Policy, TargetRules};
use crate::core::seen::StraySeen;
use crate::core::target::is_of;

/// Services that start what people have told them to.
const STARTERS: [&str; 5] = ["cron.service", "crond.service", "cronie.service", "anacron.service", "atd.service"];
/// The agent's own, its hooks', and what doctor asks php-fpm.
const OWN: &str = "restart-agent.service";
const HOOKS: [&str; 2] = ["restart-agent-hook-", "restart-agent-look-"];

/// Whose business a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Reach {
    /// A target's, or the agent's own: no stray.
    Elsewhere,
    /// Only ever reported.
    Report,
    /// It may be told, or stopped.
    Act,
}

/// The innermost unit that systemd's own manager has for a cgroup; empty for the root and for a slice alone.
#[must_use]
pub fn unit_of(cgroup: &str) -> &str {
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    cgroup.split('/').find(is_unit).unwrap_or_default()
}

/// The session of a person, as logind numbers it.
#[must_use]
pub fn session_of(cgroup: &str) -> Option<&str> {
    let scope = unit_of(cgroup).strip_prefix("session-")?.strip_suffix(".scope")?;
    is_below("user.slice", cgroup).then_some(scope)
}

fn is_below(slice: &str, cgroup: &str) -> bool {
    cgroup.strip_prefix('/').is_some_and(|path| path.split('/').next() == Some(slice))
}

/// Which targets' rules hold for it, and how far this target's may go. Sessions, cron, at and what systemd-run has started are for people to
/// run things in; every other unit is somebody's, who has not put it into a target, or has taken it out.
pub fn reach(policy: &Policy, stray: &StraySeen) -> Reach {
    let unit = unit_of(&stray.cgroup);
    if unit == OWN || HOOKS.iter().any(|hooks| unit.starts_with(hooks)) || (of_a_target(policy, unit) && !stray.left_behind) {
        return Reach::Elsewhere;
    }
    // A container has its own deploys. What a unit of a target has left behind is its own doing, and told.
    if stray.contained || stray.left_behind || unit.is_empty() || excluded(policy, unit) {
        return Reach::Report;
    }
    if is_below("user.slice", &stray.cgroup) || STARTERS.contains(&unit) || (stray.transient && is_below("system.slice", &stray.cgroup)) {
        return Reach::Act;
    }
    Reach::Report
}

fn of_a_target(policy: &Policy, unit: &str) -> bool {
    policy.targets.values().any(|rules| match rules {
        TargetRules::PhpFpm(rules) => rules.unit == unit,
        TargetRules::Generations(rules) => instance_of(&rules.unit, unit).is_some(),
        TargetRules::Scheduled(rules) => is_of(&rules.units, &rules.exclude, unit),
        TargetRules::Service(rules) => is_of(&rules.units, &rules.exclude, unit),
        TargetRules::Strays(_) => false,
    })
}

fn excluded(policy: &Policy, unit: &str) -> bool {
    let excludes = |rules: &TargetRules| match rules {
        TargetRules::Scheduled(rules) => is_of(&rules.exclude, &[], unit),
        TargetRules::Service(rules) => is_of(&rules.exclude, &[], unit),
        TargetRules::PhpFpm(_) | TargetRules::Generations(_) | TargetRules::Strays(_) => false,
    };
    policy.targets.values().any(excludes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::policy::ServiceRules;

    fn policy() -> Policy {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<String>>();
        let rules = ServiceRules {
            units: list(&["job-*.service", "run-mine.service"]),
            exclude: list(&["job-x.service", "run-not.service"]),
            code: Vec::new(),
            drain_timeout: Duration::ZERO,
            term_timeout: Duration::from_secs(1),
            checkpoint_timeout: Duration::ZERO,
            hold_timeout: Duration::ZERO,
            overdue: None,
            ask: Vec::new(),
            unask: Vec::new(),
        };
        Policy { targets: [("jobs".to_owned(), TargetRules::Service(rules))].into(), ..Policy::default() }
    }

    #[test]
    fn sessions_cron_at_and_transient_units_are_in_reach_and_other_units_are_not() {
        use Reach::{Act, Elsewhere, Report};
        let cases = [
            ("/user.slice/user-1000.slice/session-3.scope", true, Act),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/x.service", false, Act),
            ("/system.slice/cron.service", false, Act),
            ("/system.slice/atd.service", false, Act),
            ("/system.slice/run-r1.scope", true, Act),
            ("/system.slice/run-u7.service/sub", true, Act),
            ("/system.slice/apache2.service", false, Report),
            ("/system.slice/system-getty.slice/getty@tty1.service", false, Report),
            ("/machine.slice/machine-x.scope", true, Report),
            ("/init.scope", false, Report),
            ("/user.slicer/x.service", false, Report),
            ("/", false, Report),
            ("", false, Report),
            ("/system.slice/job-a.service", false, Elsewhere),
            ("/system.slice/job-a.service/sub/x.service", false, Elsewhere),
            ("/system.slice/run-mine.service", true, Elsewhere),
            ("/system.slice/job-x.service", false, Report),
            ("/system.slice/run-not.service", true, Report),
            ("/system.slice/restart-agent-hook-1-2.service", true, Elsewhere),
            ("/system.slice/restart-agent.service", false, Elsewhere),
        ];
        for (cgroup, transient, expected) in cases {
            let stray = StraySeen { cgroup: cgroup.to_owned(), transient, ..StraySeen::default() };
            assert_eq!(reach(&policy(), &stray), expected, "{cgroup}");
            let contained = StraySeen { contained: true, ..stray };
            assert_ne!(reach(&policy(), &contained), Act, "{cgroup}, contained");
        }
    }

    #[test]
    fn a_session_is_named_as_logind_names_it() {
        assert_eq!(session_of("/user.slice/user-0.slice/session-c1.scope"), Some("c1"));
        assert_eq!(session_of("/system.slice/session-c1.scope"), None);
        assert_eq!(session_of("/user.slice/user-0.slice/user@0.service/init.scope"), None);
    }
}
