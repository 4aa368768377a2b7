//! restart-agent renews everything on a host that runs deployed PHP code, after each deploy.
//!
//! `core` decides, `host` does, `engine` runs, `store` remembers, `bus` and `cli` show. docs/ARCHITECTURE.md has the
//! rooms and the laws in them; tests/architecture.rs checks the imports between them.

pub mod core;

// The bans of clippy.toml (clock, files, environment, processes) are for `core`; the other rooms exist to touch those.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod bus;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod cli;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod config;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod engine;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod host;
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod store;
