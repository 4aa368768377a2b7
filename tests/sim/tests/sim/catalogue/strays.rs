//! Processes outside of every unit of a target.

use restart_agent::core::policy::StrayAction;
use sim::explore::Story;
use sim::host::Host;
use sim::world::S;

use super::{abort, and, deploy, deploys, emergency, hold, release};
use crate::strays::{OUT_OF_REACH, STUBBORN, host, stopped_once, stray};

fn told(host: &Host, pid: u32) -> usize {
    host.world.told.iter().filter(|told| **told == pid).count()
}

fn left_alone(host: &Host) -> bool {
    host.world.strays.iter().all(|stray| stray.terms + stray.kills == 0) && host.casualties().is_empty()
}

pub fn stories() -> Vec<Story> {
    vec![
        Story::new("strays: stopped", 30, || deploy(host(StrayAction::Stop)))
            .always(|host| stopped_once(host).is_ok())
            .shows(|host| {
                let stubborn = stray(host, STUBBORN);
                (stubborn.terms, stubborn.kills) == (1, 1) && host.casualties().iter().all(|casualty| casualty.certain)
            })
            .as_planned(),
        Story::new("strays: reported", 30, || deploy(host(StrayAction::Report))).always(left_alone).as_planned(),
        Story::new("strays: told", 30, || deploy(host(StrayAction::Notify)))
            .always(|host| left_alone(host) && (11..=14).all(|pid| told(host, pid) <= 1))
            .shows(|host| (11..=13).all(|pid| told(host, pid) == 1) && told(host, OUT_OF_REACH) == 0)
            .as_planned(),
        Story::new("strays: in an emergency", 30, || and(host(StrayAction::Stop), 0, emergency()))
            .always(|host| stopped_once(host).is_ok()),
        Story::new("strays: two deploys", 60, || deploys(host(StrayAction::Stop), &[0, 5 * S])).always(|host| stopped_once(host).is_ok()),
        Story::new("strays: held in the drain", 60, || and(and(deploy(host(StrayAction::Stop)), 5 * S, hold(None)), 20 * S, release()))
            .always(|host| stopped_once(host).is_ok()),
        Story::new("strays: aborted in the stop", 60, || and(and(deploy(host(StrayAction::Stop)), 12 * S, abort()), 20 * S, release()))
            .always(|host| stopped_once(host).is_ok()),
    ]
}
