//! A load balancer with this host in one pool, and the commands that work it.

use restart_agent::core::effect::CommandEnd;

use super::{Happening, MS, S, Us, World};

/// How one of the commands behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Done after so long.
    Works(Us),
    /// Exits with this, and nothing has changed.
    Exits(i32),
    Hangs,
    /// Says that it is done, and nothing has changed.
    Lies,
    /// It fails, and yet the change is made.
    WorksAndFails,
}

#[derive(Debug, Clone)]
pub struct Balancer {
    pub name: String,
    pub out: bool,
    /// It was a person who took the host out.
    pub by_person: bool,
    /// Since when it has been out, as the balancer has it.
    pub out_since: Us,
    /// It is in again for the moment, by an order of ours before the last one, and no check has seen that: it was out since then.
    pub unseen_in: Option<Us>,
    /// It was a person who took it out last; whose it is nobody can tell if the agent owed the pool this host then.
    pub turned_out_by_person: bool,
    /// When a person last put it in.
    pub put_in: Us,
    pub depool: Hook,
    pub repool: Hook,
    pub check: Hook,
    /// What is to put the host back, or to say where it is, has lied.
    pub lied: bool,
    /// Between the end of a command and the time at which the balancer does it.
    pub delay: Us,
    /// When it does the last of what it was told.
    pub told: Us,
    /// Depools and repools of the agent that took place.
    pub by_agent: (u32, u32),
}

impl Balancer {
    #[must_use]
    pub fn new(name: &str) -> Balancer {
        Balancer {
            name: name.to_owned(),
            out: false,
            by_person: false,
            turned_out_by_person: false,
            out_since: 0,
            unseen_in: None,
            put_in: 0,
            depool: Hook::Works(80 * MS),
            repool: Hook::Works(80 * MS),
            check: Hook::Works(30 * MS),
            lied: false,
            delay: 0,
            told: 0,
            by_agent: (0, 0),
        }
    }
}

/// What the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Check,
    Depool,
    Repool,
}

impl World {
    /// Whether requests for this unit come through: all pools have this host, or there is none.
    #[must_use]
    pub fn takes_traffic(&self, _unit: &str) -> bool {
        self.balancers.values().all(|balancer| !balancer.out)
    }

    /// Starts a command: how it ends, and when.
    pub(super) fn pool_command(&mut self, pool: &str, command: Command, timeout: Us) -> (CommandEnd, Us) {
        let jitter = self.rng.between(0, 20 * MS);
        let Some(balancer) = self.balancers.get_mut(pool) else {
            return (CommandEnd::Exited { status: 127, said: "no such pool".to_owned() }, jitter);
        };
        let hook = match command {
            Command::Check => balancer.check,
            Command::Depool => balancer.depool,
            Command::Repool => balancer.repool,
        };
        let (delay, balancer_told) = (balancer.delay, balancer.told);
        balancer.lied |= hook == Hook::Lies && command != Command::Depool;
        let exited = |status: i32| CommandEnd::Exited { status, said: String::new() };
        let (end, takes, changes) = match hook {
            Hook::Works(takes) if takes + jitter >= timeout => (CommandEnd::TimedOut, timeout, false),
            Hook::Works(takes) => (exited(0), takes + jitter, true),
            Hook::Exits(status) => (exited(status), 20 * MS + jitter, false),
            Hook::Hangs => (CommandEnd::TimedOut, timeout, false),
            Hook::Lies => (exited(0), 20 * MS + jitter, false),
            Hook::WorksAndFails => (exited(1), 20 * MS + jitter, true),
        };
        let pool = pool.to_owned();
        self.say(|| format!("pool {pool}: the agent's {command:?} begins"));
        match command {
            Command::Check => {
                let balancer = self.balancers.get_mut(&pool).unwrap();
                balancer.unseen_in = None;
                let out = balancer.out;
                let answered = match &end {
                    CommandEnd::Exited { status: 0, .. } => exited(i32::from(out && hook != Hook::Lies)),
                    other => other.clone(),
                };
                (answered, takes)
            }
            Command::Depool | Command::Repool => {
                if changes {
                    let ends = self.now + takes;
                    // What was told first is done first.
                    let at = (ends + delay).max(balancer_told + 1);
                    self.balancers.get_mut(&pool).unwrap().told = at;
                    self.at(at, Happening::PoolTurns { pool, out: command == Command::Depool, ends });
                }
                (end, takes)
            }
        }
    }

    /// What the agent's command set going arrives at the balancer.
    pub(crate) fn pool_turns(&mut self, pool: &str, out: bool) {
        let now = self.now;
        let Some(balancer) = self.balancers.get_mut(pool) else { return };
        if balancer.out == out {
            return;
        }
        if !out && balancer.by_person {
            balancer.out = false;
            return self.violates(format!("pool {pool}: the agent puts back what a person took out"));
        }
        balancer.out = out;
        balancer.turned_out_by_person = false;
        if out {
            balancer.out_since = balancer.unseen_in.take().unwrap_or(now);
            balancer.by_agent.0 += 1;
        } else {
            balancer.unseen_in = (balancer.told > now).then_some(balancer.out_since);
            balancer.out_since = now;
            balancer.by_agent.1 += 1;
        }
        self.say(|| format!("pool {pool}: the host is {}, by the agent", if out { "out" } else { "in" }));
    }

    /// Commands that a dead agent has left running are ended before the next one begins.
    pub(crate) fn end_hooks(&mut self) {
        let now = self.now;
        self.forget(|what| matches!(what, Happening::PoolTurns { ends, .. } if *ends > now));
    }

    /// A person turns the host out or in.
    pub fn person_turns(&mut self, pool: &str, out: bool) {
        let now = self.now;
        self.say(|| format!("== a person turns the host {} in pool {pool}", if out { "out" } else { "in" }));
        // What the balancer was told before, and has not done yet, it does first.
        let told = |what: &Happening| match what {
            Happening::PoolTurns { pool: of, out, ends } if of == pool && *ends <= now => Some(*out),
            _ => None,
        };
        let before = self.queue.values().filter_map(told).next_back();
        self.forget(|what| told(what).is_some());
        let Some(balancer) = self.balancers.get_mut(pool) else { return };
        balancer.out = before.unwrap_or(balancer.out);
        balancer.unseen_in = None;
        if out && !balancer.out {
            // While the agent owes the pool this host, nobody can tell whose depool it is.
            balancer.by_person = !self.agent_owes.contains(pool);
            balancer.turned_out_by_person = true;
            // Nor that it was in meanwhile.
            if balancer.by_person {
                balancer.out_since = now;
            }
        }
        if !out {
            balancer.by_person = false;
            balancer.turned_out_by_person = false;
            balancer.put_in = now;
        }
        balancer.out = out;
    }

    /// The moment from which no request is to come in, if the host is out of all pools of the configuration.
    #[must_use]
    pub fn out_since(&self) -> Option<Us> {
        let ours = || self.balancers.values().filter(|balancer| self.policy.pools.contains_key(&balancer.name));
        let all = ours().all(|balancer| balancer.out || !self.may_know_that_it_is_in(balancer));
        all.then(|| ours().map(|balancer| balancer.out_since).max()).flatten()
    }

    /// A person may be quicker than the way from the last round of checks, each of which tells what was when it began, to what is done on their word.
    pub(crate) fn may_know_that_it_is_in(&self, balancer: &Balancer) -> bool {
        let takes = |balancer: &Balancer| if let Hook::Works(takes) = balancer.check { takes } else { 0 };
        let slowest = self.balancers.values().map(takes).max().unwrap_or(0);
        self.now > balancer.put_in + 3 * S + 2 * slowest
    }
}
