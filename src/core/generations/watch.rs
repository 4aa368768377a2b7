//! After the switch: the new one serves, and is seen to stay up; where all share a socket the old ones are seen to take nothing new.

use std::time::Duration;

use super::looks::runs;
use super::{Generations, Phase};
use crate::core::effect::{Effect, FpmRequest, Outcome};
use crate::core::fpm::Fpm;
use crate::core::policy::GenerationRules;
use crate::core::step::Turn;
use crate::core::time::Mono;

/// The old one stays untouched for so long after the switch, so that there is a way back.
pub(super) const WATCH: Duration = Duration::from_secs(2);
/// For others to take no new requests any more, where they share a socket with it.
const CLOSE: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_millis(100);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// So many pings in a row without an answer, and it does not serve.
const MISSED: u32 = 5;

impl Generations {
    /// The web server sends it its requests: it answers, and its master stays the same.
    pub(super) fn watch(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, until: Mono) {
        let now = turn.now.mono;
        let Some(fpm) = &self.starting else { return self.enter(now, Phase::Looking) };
        let (unit, invocation) = (fpm.unit.clone(), fpm.invocation().to_owned());
        let (ping, at_work) = (fpm.ping(), fpm.ask_whether_at_work(PING_TIMEOUT));
        if self.has_lost_its_place(turn, &unit, &invocation) {
            return;
        }
        if self.missed >= MISSED {
            return self.go_back_for(turn, &unit, "it does not answer its ping through the symlink");
        }
        if now >= until && (self.answered || ping.is_none()) && self.missed == 0 && self.has_looked_since(until) {
            if rules.shared() {
                self.look.want(now);
                return self.enter(now, Phase::Closing { until: now.after(CLOSE) });
            }
            return self.reached(turn, &unit);
        }
        if now >= until && !self.has_looked_since(until) {
            self.look.want(now);
        }
        if let Some(ask) = at_work.filter(|_| self.pinging.is_none() && now >= self.next && std::mem::take(&mut self.unsure)) {
            self.pinging = Some(turn.ask(ask));
        } else if let Some((own, path)) = ping.filter(|_| self.pinging.is_none() && now >= self.next) {
            self.next = now.after(PING_EVERY);
            let request = FpmRequest::Ping { path };
            let socket = if rules.shared() { own } else { rules.socket.clone() };
            self.pinging = Some(turn.ask(Effect::Request { socket, request, timeout: PING_TIMEOUT }));
        } else if self.pinging.is_none() && now >= self.next {
            self.next = now.after(PING_EVERY);
        }
    }

    /// Whether a look has shown that it does not serve any more, which is seen to.
    fn has_lost_its_place(&mut self, turn: &mut Turn<'_>, unit: &str, invocation: &str) -> bool {
        let looked = self.has_looked_since(self.since);
        let up = self.unit(unit).is_some_and(|seen| runs(seen) && seen.invocation == invocation);
        if looked && !up {
            self.go_back_for(turn, unit, "it did not stay up after the switch");
        } else if looked && self.current.as_deref() != Some(unit) {
            // Somebody, or another configuration, has taken the symlink elsewhere: looked at anew.
            self.enter(turn.now.mono, Phase::Looking);
        } else {
            return false;
        }
        true
    }

    /// One that has no worker left for a ping serves: with long requests that is soon so, and lasts.
    pub(super) fn pinged(&mut self, now: Mono, outcome: &Outcome) {
        self.next = now.after(PING_EVERY);
        match outcome {
            Outcome::Answered { status: 200, .. } => (self.missed, self.answered) = (0, true),
            Outcome::Pools(answers) if self.starting.as_ref().is_some_and(|fpm| fpm.is_at_work(answers)) => {
                (self.missed, self.answered) = (0, true);
            }
            Outcome::Pools(_) => {}
            _ => {
                self.missed += 1;
                self.unsure = true;
            }
        }
    }

    /// Others listen on the same socket: the deploy has arrived when they take no new requests.
    pub(super) fn close(&mut self, turn: &mut Turn<'_>, until: Mono) {
        let now = turn.now.mono;
        let Some(fpm) = &self.starting else { return self.enter(now, Phase::Looking) };
        let (unit, invocation) = (fpm.unit.clone(), fpm.invocation().to_owned());
        if self.has_lost_its_place(turn, &unit, &invocation) {
            return;
        }
        let closed = self.has_looked_since(self.since) && self.ending.values().all(Fpm::is_closed);
        if closed || now >= until {
            self.reached(turn, &unit);
        }
    }
}
