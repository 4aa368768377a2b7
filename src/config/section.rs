//! What a key of the configuration is: the table that it is in, what it takes, what holds without it.

/// A table of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Stamp,
    Pool,
    PhpFpm,
    Generations,
    Scheduled,
    Service,
    Strays,
    Proof,
    Opcache,
}

impl Section {
    pub const ALL: &[Section] = &[
        Section::Stamp,
        Section::Pool,
        Section::PhpFpm,
        Section::Generations,
        Section::Scheduled,
        Section::Service,
        Section::Strays,
        Section::Proof,
        Section::Opcache,
    ];

    /// The section of a target of this kind, whose strategy is the one that is the default.
    pub fn of_kind(kind: &str) -> Option<Section> {
        match kind {
            "php-fpm" => Some(Section::PhpFpm),
            "scheduled" => Some(Section::Scheduled),
            "service" => Some(Section::Service),
            "strays" => Some(Section::Strays),
            _ => None,
        }
    }

    /// The kind of the targets whose section this is.
    pub fn kind(self) -> Option<&'static str> {
        match self {
            Section::PhpFpm | Section::Generations => Some("php-fpm"),
            Section::Scheduled => Some("scheduled"),
            Section::Service => Some("service"),
            Section::Strays => Some("strays"),
            Section::Stamp | Section::Pool | Section::Proof | Section::Opcache => None,
        }
    }

    /// How a message names the table.
    pub fn title(self) -> &'static str {
        match self {
            Section::Stamp => "[stamp]",
            Section::Pool => "[pool]",
            Section::PhpFpm => "a target of kind = \"php-fpm\"",
            Section::Generations => "a target of strategy = \"generations\"",
            Section::Scheduled => "a target of kind = \"scheduled\"",
            Section::Service => "a target of kind = \"service\"",
            Section::Strays => "a target of kind = \"strays\"",
            Section::Proof => "proof",
            Section::Opcache => "opcache",
        }
    }
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `500ms`, `5s`, `10m`, `24h`, `7d`.
    Time,
    /// The same, but not zero.
    TimeAboveZero,
    /// A whole number from 1 to 1000.
    Count,
    /// A whole number from 1 to 1,000,000.
    Number,
    /// `20%`: from 1 to 99.
    Percent,
    /// `200M`, `2G`: bytes, times 1024 for each step.
    Size,
    /// An absolute path.
    Path,
    /// The absolute path of a symlink beside which sockets are made: their paths have to fit into `sun_path`. Or the name of a .socket unit.
    SocketLink,
    /// An absolute path of a socket, or IP:PORT.
    Address,
    /// What a web server would ask for: begins with `/`.
    Uri,
    /// A list of [`Type::Uri`].
    Uris,
    /// A command with its arguments; the first word is an absolute path.
    Argv,
    /// The name of one service unit.
    Unit,
    /// The name of a template of services.
    Template,
    /// A list of names or globs of service units, at least one.
    Units,
    /// The same, and none is fine.
    Excluded,
    /// A list of names or globs of processes, at least one.
    Names,
    /// The same, and none of them a shell or what a session is made of.
    Programs,
    /// One of these words.
    Word {
        of: &'static [&'static str],
        /// Words of the contract whose feature does not exist yet.
        not_yet: &'static [&'static str],
    },
    /// A table of its own.
    Table(Section),
}

/// What holds when a key is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// It must not be.
    Required,
    /// Nothing.
    Absent,
    /// This value, written as in the file but without quotes.
    Is(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub section: Section,
    pub name: &'static str,
    pub takes: Type,
    pub default: Fallback,
    pub says: &'static str,
}
