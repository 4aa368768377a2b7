//! (under construction)

pub mod client;
