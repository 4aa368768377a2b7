//! Simulated hosts for restart-agent: the real core on one virtual clock, with a systemd, a php-fpm, a balancer and people that
//! behave as the facts say, or worse. No real time, no threads; a seed tells the whole story.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod check;
pub mod explore;
pub mod host;
pub mod plan;
pub mod random;
pub mod rng;
pub mod world;
