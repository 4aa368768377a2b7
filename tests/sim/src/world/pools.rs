//! The pools of one php-fpm: `www`, which [`Fpm`] has always had, and more beside it, each with workers, sockets and requests of its own.

use restart_agent::core::effect::StatusAsk;
use restart_agent::core::policy::{FpmRules, Policy, TargetRules};

use super::fpm::{Answers, Fpm, Load};
use super::unit::{Process, Unit};
use super::{MINUTE, Us, World};

/// pm.status_path of every pool that has one.
pub const STATUS_PATH: &str = "/fpm-status";

/// How a pool is asked for its status, by its configuration and the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing says how.
    Not,
    /// Where, or for what, nobody answers.
    InVain,
    /// Over its own socket, so by one of its workers.
    Itself,
    /// By a socket for that.
    Beside,
}

/// A pool of a php-fpm. What the fields mean is said in [`Fpm`].
#[derive(Debug, Clone)]
pub struct Pool {
    pub name: String,
    pub workers: u32,
    pub status_listen: bool,
    pub has_status: bool,
    pub status: Answers,
    pub status_mended: Us,
    pub load: Load,
    pub held: u32,
    pub accepted: u64,
}

impl Pool {
    /// As `www` is.
    #[must_use]
    pub fn new(name: &str) -> Pool {
        Pool { name: name.to_owned(), ..Fpm::default().www() }
    }
}

impl Fpm {
    fn www(&self) -> Pool {
        Pool {
            name: "www".to_owned(),
            workers: self.workers,
            status_listen: self.status_listen,
            has_status: self.has_status,
            status: self.status,
            status_mended: self.status_mended,
            load: self.load,
            held: self.held,
            accepted: self.accepted,
        }
    }

    /// `www` first.
    pub fn pools(&self) -> impl Iterator<Item = Pool> {
        std::iter::once(self.www()).chain(self.more.iter().cloned())
    }

    #[must_use]
    pub fn pool(&self, n: usize) -> Option<Pool> {
        self.pools().nth(n)
    }

    /// The pool of a worker.
    #[must_use]
    pub fn pool_of(&self, pid: u32) -> usize {
        self.worker_of.get(&pid).copied().unwrap_or(0)
    }

    pub(super) fn accepts(&mut self, pool: usize) {
        match pool.checked_sub(1).and_then(|n| self.more.get_mut(n)) {
            Some(pool) => pool.accepted += 1,
            None => self.accepted += 1,
        }
    }

    /// Where this pool listens, and where it tells its status, if not there.
    pub(super) fn sockets(&self, pool: usize, listen: &str) -> Option<(String, Option<String>)> {
        let of = self.pool(pool)?;
        let listen = if pool == 0 { listen.to_owned() } else { listen.replace(".sock", &format!(".{}.sock", of.name)) };
        let status = of.status_listen.then(|| listen.replace(".sock", ".status.sock"));
        Some((listen, status))
    }

    /// Whose socket this is; `None`: nobody listens there.
    pub(super) fn pool_at(&self, socket: &str, listen: &str) -> Option<usize> {
        let at = |n: &usize| self.sockets(*n, listen).is_some_and(|(own, status)| own == socket || status.as_deref() == Some(socket));
        (0..=self.more.len()).find(at)
    }

    /// How long the slowest of them takes to tell its status: all are asked at once, and the answer comes when that has come.
    #[must_use]
    pub(crate) fn says_within(&self) -> Us {
        let slowly = |pool: Pool| if let Answers::Slowly(after) = pool.status { after } else { 0 };
        self.more.iter().cloned().map(slowly).max().map_or(0, |more| more.max(self.pool(0).map_or(0, slowly)))
    }

    /// Its status pages are mended.
    pub(crate) fn status_is_mended(&mut self, now: Us) {
        let more = self.more.iter_mut().map(|pool| (&mut pool.status, &mut pool.status_mended));
        for (status, mended) in std::iter::once((&mut self.status, &mut self.status_mended)).chain(more) {
            if *status != Answers::Well {
                *mended = now;
            }
            *status = Answers::Well;
        }
    }

    pub(crate) fn loads(&mut self) -> impl Iterator<Item = &mut Load> {
        std::iter::once(&mut self.load).chain(self.more.iter_mut().map(|pool| &mut pool.load))
    }
}

impl Unit {
    /// The pool of a worker of it, as its title says.
    pub(super) fn pool_of(&self, process: &Process) -> String {
        let pool = self.as_fpm().and_then(|fpm| fpm.pool(fpm.pool_of(process.pid)));
        pool.map_or_else(|| "www".to_owned(), |pool| pool.name)
    }
}

impl World {
    /// How each pool of this php-fpm is asked by these rules: the socket that they name is that of the pool that has it, or of the first, and the path
    /// that they name is that of all.
    pub(crate) fn asks(&self, unit: &str, rules: Option<&FpmRules>) -> Vec<Option<StatusAsk>> {
        let Some(fpm) = self.units.get(unit).and_then(Unit::as_fpm) else { return Vec::new() };
        let listen = self.listen(unit);
        let (socket, path) = rules.map_or((None, None), |rules| (rules.status.as_ref(), rules.status_path.as_deref()));
        let named = socket.map(|socket| fpm.pool_at(socket, &listen).unwrap_or(0));
        let ask = |(n, pool): (usize, Pool)| {
            let (own, beside) = fpm.sockets(n, &listen)?;
            let there = socket.filter(|_| named == Some(n));
            let path = path.or(pool.has_status.then_some(STATUS_PATH)).or(there.map(|_| "/status"))?;
            Some(StatusAsk { pool: pool.name, socket: there.cloned().or(beside).unwrap_or(own), path: path.to_owned() })
        };
        fpm.pools().enumerate().map(ask).collect()
    }

    /// What comes of that.
    pub(crate) fn asked(&self, unit: &str, rules: Option<&FpmRules>) -> Vec<Asked> {
        let Some(fpm) = self.units.get(unit).and_then(Unit::as_fpm) else { return Vec::new() };
        let listen = self.listen(unit);
        let of = |((n, pool), ask): ((usize, Pool), Option<StatusAsk>)| {
            let Some(ask) = ask else { return Asked::Not };
            let itself = fpm.sockets(n, &listen).is_some_and(|(own, _)| own == ask.socket);
            match fpm.pool_at(&ask.socket, &listen) {
                Some(at) if at == n && pool.has_status && ask.path == STATUS_PATH => {
                    if itself {
                        Asked::Itself
                    } else {
                        Asked::Beside
                    }
                }
                _ => Asked::InVain,
            }
        };
        fpm.pools().enumerate().zip(self.asks(unit, rules)).map(of).collect()
    }

    /// The same by the rules of now, if they have been these for a while.
    pub(super) fn asked_for_long(&self, unit: &str) -> Option<Vec<Asked>> {
        let rules = self.fpm_rules(unit).map(|(_, rules)| rules);
        let said = |rules: &FpmRules| (rules.status.clone(), rules.status_path.clone());
        let recent = self.formers.iter().filter(|(until, _)| self.now < until + 3 * MINUTE);
        let of = |policy: &Policy| {
            policy.targets.values().find_map(|rules| match rules {
                TargetRules::PhpFpm(rules) if rules.unit == unit => Some(said(rules)),
                _ => None,
            })
        };
        let same = recent.map(|(_, policy)| of(policy)).all(|before| before == rules.as_ref().map(said));
        (same && !self.unread.contains(unit)).then(|| self.asked(unit, rules.as_ref()))
    }

    /// How many connections the kernel shows that were accepted on this socket.
    pub(super) fn connections(&self, socket: &str) -> Option<u32> {
        let unit = self.unit_at(socket);
        let fpm = self.units.get(&unit)?.as_fpm()?;
        let pool = fpm.pool_at(socket, &self.listen(&unit))?;
        u32::try_from(fpm.requests.values().filter(|request| fpm.pool_of(request.pid) == pool).count()).ok()
    }
}
