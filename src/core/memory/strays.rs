//! What is remembered of strays: which are being stopped, and which terminals were told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Memory;
use crate::core::effect::WorkerRef;
use crate::core::status::Casualty;
use crate::core::time::Mono;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayCut {
    pub process: WorkerRef,
    pub asked: Mono,
    pub grace: Duration,
    pub casualty: Casualty,
    /// The signal is in the journal, so it may have been sent.
    pub begun: bool,
    /// An earlier one is, and what came of it is not: the process may have ended by that one.
    #[serde(default)]
    pub perhaps_sent: bool,
    /// It was sent.
    pub answered: bool,
    /// It was not: the process had ended.
    pub missed: bool,
    /// SIGKILL is in the journal, too.
    pub killed: bool,
}

impl Memory {
    #[must_use]
    pub fn stray_cut(&self, process: &WorkerRef) -> Option<&StrayCut> {
        self.strays.iter().find(|cut| cut.process == *process)
    }

    /// Whether the terminal of this process may have been told of the deploy that landed then.
    #[must_use]
    pub fn told(&self, process: &WorkerRef, landed: Mono) -> bool {
        self.told.iter().any(|(told, of)| told == process && *of == landed)
    }
}
