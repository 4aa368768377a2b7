//! The agent on D-Bus: what it says is taken from the status, what it is told goes to the engine with the name of who told it.

mod allowed;
pub mod client;
mod serve;

pub use serve::serve;
