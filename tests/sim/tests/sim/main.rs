//! Scenarios on simulated hosts, and random ones with every fault there is.

mod catalogue;
mod drain;
mod engine;
mod fpm;
mod generations;
mod given;
mod opcache;
mod random;
mod reruns;
mod scheduled;
mod services;
mod services_barred;
mod services_down;
mod services_php;
mod slow_disk;
mod status;
mod strays;
mod traps;

/// A seed lives on small strings: with this allocator it takes a fifth less time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
