//! `release`: ends the hold.

use super::args::Places;
use super::bus;
use super::exit::Exit;
use super::output::Output;

pub fn run(places: &Places, out: &Output) -> Exit {
    bus::tell(places, out, async |agent| agent.release().await)
}
