//! Exit statuses: the contract's numbers.

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Exit {
    Done,
    /// `wait`: failed or blocked. Other commands: the order was refused, or something could not be read.
    Failed,
    NotRunning,
    /// `status`: there is no state to show.
    NoState,
    Usage,
    NeedsRoot,
    /// `check-config` found something.
    BadConfig,
    TimedOut,
    /// `should-stop`: the caller is in no unit of a target.
    NotManaged,
    /// `protect`: that of the command.
    Of(u8),
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::NotManaged => 2,
            Exit::NotRunning => 3,
            Exit::NoState => 4,
            Exit::Usage => 64,
            Exit::NeedsRoot => 77,
            Exit::BadConfig => 78,
            Exit::TimedOut => 124,
            Exit::Of(code) => code,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
