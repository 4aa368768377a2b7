//! Scenarios on simulated hosts, and random ones with every fault there is.

mod catalogue;
mod drain;
mod fpm;
mod generations;
mod given;
mod opcache;
mod random;
mod scheduled;
mod services;
mod status;
mod strays;
mod traps;
