//! Looking at units: one look under way at a time, again when something hints at a change, and slowly when nothing does (law 4).

use std::collections::BTreeMap;
use std::time::Duration;

use super::effect::{Effect, EffectId, Looked, Outcome};
use super::seen::UnitSeen;
use super::step::Turn;
use super::time::Mono;

/// After a look that failed.
const RETRY: Duration = Duration::from_secs(1);

/// When and what to look at.
#[derive(Debug, Default)]
pub struct Looker {
    pending: Option<(EffectId, Mono)>,
    due: Option<Mono>,
    /// When the last look that was answered had begun: what it shows is no older.
    began: Option<Mono>,
    exact: bool,
    /// argv[0] is read, too.
    names: bool,
    trouble: Option<String>,
    /// After a look that failed: not before this, whatever wants one.
    not_before: Mono,
}

impl Looker {
    /// Wants a look at `at`, or earlier if one was wanted earlier.
    pub fn want(&mut self, at: Mono) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// From now on it is read, or not, what each process is called by its argv[0].
    pub fn read_names(&mut self, names: bool) {
        self.names = names;
    }

    /// Nothing that is due by now is worth a look: whoever wants one says so again.
    pub fn put_off(&mut self, now: Mono) {
        self.due = self.due.filter(|due| *due > now);
    }

    /// Asks if it is time and none is under way.
    pub fn ask(&mut self, turn: &mut Turn<'_>, units: &[String], looked: Looked, cgroups: BTreeMap<String, String>) {
        if units.is_empty() || self.due().is_none_or(|due| due > turn.now.mono) {
            return;
        }
        self.exact = matches!(looked, Looked::Exactly | Looked::Bare);
        let names = self.names;
        self.ask_for(turn, || Effect::Look { units: units.to_vec(), looked, cgroups, names });
    }

    /// The same with another effect that looks.
    pub fn ask_for(&mut self, turn: &mut Turn<'_>, effect: impl FnOnce() -> Effect) {
        if self.due().is_some_and(|due| due <= turn.now.mono) {
            self.due = None;
            let id = turn.ask(effect());
            self.pending = Some((id, turn.now.mono));
        }
    }

    /// The answer, if this outcome is one. A look that failed is repeated, and says so in [`Looker::trouble`].
    pub fn outcome<'o>(&mut self, turn: &Turn<'_>, id: EffectId, outcome: &'o Outcome) -> Option<&'o [UnitSeen]> {
        if let Outcome::Units(units) = self.answer(turn, id, outcome)? { Some(units) } else { None }
    }

    /// The same of whatever look it was.
    pub fn answer<'o>(&mut self, turn: &Turn<'_>, id: EffectId, outcome: &'o Outcome) -> Option<&'o Outcome> {
        let (_, began) = self.pending.take_if(|(pending, _)| *pending == id)?;
        match outcome {
            Outcome::Units(_) | Outcome::Strays(_) | Outcome::Generations(_) => {
                self.began = Some(began);
                self.trouble = None;
                Some(outcome)
            }
            other => {
                self.trouble = Some(format!("cannot look at what runs: {}", other.said()));
                self.not_before = turn.now.mono.after(RETRY);
                self.want(self.not_before);
                None
            }
        }
    }

    /// The last look was at named units: a unit that it does not show was not asked for.
    #[must_use]
    pub fn exact(&self) -> bool {
        self.exact
    }

    /// Whether `id` is the look under way.
    #[must_use]
    pub fn owns(&self, id: EffectId) -> bool {
        self.pending.is_some_and(|(pending, _)| pending == id)
    }

    /// When the last answered look had begun.
    #[must_use]
    pub fn began(&self) -> Option<Mono> {
        self.began
    }

    /// Whether what was seen is from `at` or later.
    #[must_use]
    pub fn seen_since(&self, at: Mono) -> bool {
        self.began.is_some_and(|began| began >= at)
    }

    /// Forgets what was seen, and any look under way: its answer would be about another question.
    pub fn reset(&mut self) {
        *self = Looker::default();
    }

    /// Whether a look that began at `at` or later is under way: what was due then waits for its answer.
    #[must_use]
    pub fn under_way_since(&self, at: Mono) -> bool {
        self.pending.is_some_and(|(_, began)| began >= at)
    }

    #[must_use]
    pub fn due(&self) -> Option<Mono> {
        self.due.filter(|_| self.pending.is_none()).map(|due| due.max(self.not_before))
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}
