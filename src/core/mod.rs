//! All decisions, as a sans-IO state machine: this crate room never reads a clock, a file, an environment or a process,
//! holds no runtime and draws no random number, so whatever it decides can be decided again in a test.

pub mod deploy;
pub mod effect;
pub mod entry;
pub mod event;
pub mod policy;
pub mod seen;
pub mod status;
pub mod time;
