//! What all kinds of target have in common for the machine.

/// How far a target has come with what it is to be fresh for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is wanted of it.
    Idle,
    Working,
    /// Fresh, or what is stale is allowed by its rules.
    Reached,
    /// Not, and it goes on only with a new try. `blocked`: something outside stands in the way, and may go away by itself.
    Failed {
        why: String,
        blocked: bool,
    },
}

/// Whether a unit's name matches one of these names or globs, as systemd's own patterns do.
#[must_use]
pub fn matches_any(patterns: &[String], unit: &str) -> bool {
    patterns.iter().any(|pattern| pattern == unit || glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(unit)))
}
