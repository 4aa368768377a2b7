//! All decisions, as a sans-IO state machine: this crate room never reads a clock, a file, an environment or a process,
//! holds no runtime and draws no random number, so whatever it decides can be decided again in a test.

mod asking;
pub mod begin;
pub mod cooperation;
mod cut;
mod debts;
pub mod deploy;
pub mod doctor;
pub mod effect;
pub mod entry;
pub mod event;
pub mod evidence;
mod fpm;
mod generations;
mod inplace;
mod intake;
mod ladder;
mod loans;
mod look;
pub mod machine;
pub mod memory;
pub mod migrate;
pub mod opcache;
mod orphans;
pub mod plan;
pub mod policy;
mod pool;
mod rollout;
mod scheduled;
pub mod seen;
mod service;
pub mod stale;
pub mod status;
pub mod step;
mod strays;
mod survey;
mod target;
pub mod time;
mod waited;

pub use generations::{name as generation_name, serving};
pub use loans::{EXEC_RESET, RESTART_DROP_IN};
pub use strays::place::unit_of;
pub use target::is_of;
pub use waited::Waited;
mod view;
