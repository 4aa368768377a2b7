//! When php-fpm is asked for its opcache, and what comes of the answer: a rollout, a problem, or a line in status.
//!
//! Without a guard in the configuration nothing is asked. With one it is one request per `every` while nothing is at work on the target, and one more when
//! that is over. A decision rests on an answer of that moment; no answer is no reason for anything (law 5).

use std::collections::BTreeMap;
use std::time::Duration;

use super::{OpcacheRules, OpcacheSize, Verdict, judge};
use crate::core::deploy::Scope;
use crate::core::effect::{Effect, EffectId, Outcome};
use crate::core::entry::Entry;
use crate::core::machine::{Machine, Work, turn};
use crate::core::policy::TargetRules;
use crate::core::seen::{FpmLayout, OpcacheSeen};
use crate::core::status::{OpcacheFill, OpcacheView};
use crate::core::step::{Deadline, Step, Turn, earliest};
use crate::core::target::Progress;
use crate::core::time::{Mono, Now, Wall};

/// The script takes less than a millisecond (facts 5c); a pool without a status socket may have all its workers busy.
const TIMEOUT: Duration = Duration::from_secs(2);
/// After a configuration that could not be read, which takes a process each time and leaves its trace in php-fpm's log (facts M11).
const INSPECT_AGAIN: Duration = Duration::from_secs(10 * 60);
/// Who asks for its rollouts.
pub(super) const BY: &str = "the opcache guard";

/// The opcaches that are guarded, by target.
#[derive(Debug, Default)]
pub struct Opcaches {
    targets: BTreeMap<String, Guarded>,
}

#[derive(Debug, Default)]
struct Guarded {
    unit: String,
    /// Where it is asked; `None`: its configuration says.
    socket: Option<String>,
    pending: Option<EffectId>,
    next: Mono,
    /// The last answer, or why there was none.
    said: Option<(Wall, Result<OpcacheSeen, String>)>,
    /// It is to be judged.
    new: bool,
    /// What it means, beyond its figures.
    note: Option<String>,
    problem: Option<String>,
}

impl Opcaches {
    /// The rules may have changed, and php-fpm with them: all are asked again, whatever the answer that is under way.
    pub fn again(&mut self) {
        self.targets.values_mut().for_each(|guarded| (guarded.socket, guarded.pending, guarded.next) = (None, None, Mono::BOOT));
    }

    /// What is wrong with them that no rollout mends.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.targets.values().filter_map(|guarded| Some(format!("{}: {}", guarded.unit, guarded.problem.as_ref()?)))
    }

    /// The unit of this target that is asked, and what it said last.
    #[must_use]
    pub fn view(&self, target: &str) -> Option<(&str, OpcacheView)> {
        let guarded = self.targets.get(target)?;
        let (looked_at, said) = guarded.said.as_ref()?;
        let fill = said.as_ref().ok().map(|seen| OpcacheFill {
            used: seen.used,
            free: seen.free,
            wasted: seen.wasted,
            keys: seen.keys,
            max_keys: seen.max_keys,
            since: seen.since,
        });
        let note = said.as_ref().err().or(guarded.note.as_ref()).cloned();
        Some((&guarded.unit, OpcacheView { looked_at: *looked_at, fill, note }))
    }

    /// Whether this was the outcome of a question of the guard.
    pub fn outcome(&mut self, now: Now, targets: &BTreeMap<String, TargetRules>, id: EffectId, outcome: &Outcome) -> bool {
        let Some((name, guarded)) = self.targets.iter_mut().find(|(_, guarded)| guarded.pending == Some(id)) else { return false };
        guarded.pending = None;
        let rules = targets.get(name);
        let every = rules.and_then(TargetRules::opcache).map(|rules| rules.every).unwrap_or_default();
        let pause = if guarded.socket.is_some() { every } else { every.max(INSPECT_AGAIN) };
        let failed = match outcome {
            Outcome::Layout(layout) => match socket_of(rules, layout) {
                Ok(socket) => {
                    guarded.socket = Some(socket);
                    return true;
                }
                Err(why) => why,
            },
            Outcome::Opcache(seen) => {
                guarded.said = Some((now.wall, Ok(seen.clone())));
                guarded.new = true;
                String::new()
            }
            other => other.said(),
        };
        if !failed.is_empty() {
            // Its configuration may have changed.
            guarded.socket = None;
            guarded.said = Some((now.wall, Err(failed)));
            (guarded.note, guarded.problem) = (None, None);
        }
        guarded.next = now.mono.after(pause);
        true
    }
}

impl Machine {
    /// Asks whom it is time to ask, and acts upon what was answered.
    pub(in crate::core) fn guard_opcaches(&mut self, now: Now, step: &mut Step) {
        let of = |(name, rules): (&String, &TargetRules)| Some((name.clone(), rules.opcache()?.clone()));
        let rules: BTreeMap<String, OpcacheRules> = self.policy.targets.iter().filter_map(of).collect();
        self.opcaches.targets.retain(|name, _| rules.contains_key(name));
        if self.settling() {
            return;
        }
        for (name, rules) in rules {
            let Some(unit) = self.guarded_unit(&name) else {
                self.opcaches.targets.remove(&name);
                continue;
            };
            let working = self.progress(&name) == Progress::Working;
            let guarded = self.opcaches.targets.entry(name.clone()).or_default();
            if guarded.unit != unit {
                *guarded = Guarded { unit, ..Guarded::default() };
            }
            if working {
                // What it has said is of no use any more, and it is asked as soon as that is over.
                (guarded.next, guarded.new) = (Mono::BOOT, false);
                continue;
            }
            if std::mem::take(&mut guarded.new) {
                self.judge_opcache(now, step, &name, &rules);
            } else if guarded.pending.is_none() && guarded.next <= now.mono {
                let effect = match &guarded.socket {
                    Some(socket) => Effect::AskOpcache { socket: socket.clone(), timeout: TIMEOUT },
                    None => Effect::Inspect { unit: guarded.unit.clone() },
                };
                guarded.pending = Some(turn!(self, now, step).ask(effect));
            }
        }
    }

    fn judge_opcache(&mut self, now: Now, step: &mut Step, name: &str, rules: &OpcacheRules) {
        let memory = self.memory.targets.get(name).map(|target| target.opcache.clone()).unwrap_or_default();
        let waits = self.guard_waits_for(name);
        let Some(guarded) = self.opcaches.targets.get_mut(name) else { return };
        let Some((_, Ok(seen))) = &guarded.said else { return };
        let (verdict, size) = (judge(rules, seen, &memory, now.wall), OpcacheSize::of(seen));
        (guarded.note, guarded.problem) = (None, None);
        let mut sized = None;
        match verdict {
            Verdict::Within => {}
            Verdict::FitsAgain => sized = Some(None),
            Verdict::Wait { why } => guarded.note = Some(format!("{why}; it was renewed for this a short time ago")),
            Verdict::TooSmall { problem } => {
                sized = (memory.too_small != Some(size)).then_some(Some(size));
                guarded.note = Some("too small for the code".to_owned());
                guarded.problem = Some(problem);
            }
            Verdict::Renew { why } => match waits {
                Some(waits) => guarded.note = Some(format!("{why}; a rollout for this waits for {waits}")),
                None => return self.renew_opcache(now, step, name, why),
            },
        }
        if let Some(too_small) = sized {
            turn!(self, now, step).record(Entry::OpcacheSized { target: name.to_owned(), too_small });
        }
    }

    fn renew_opcache(&mut self, now: Now, step: &mut Step, name: &str, why: String) {
        turn!(self, now, step).record(Entry::OpcacheCrossed { target: name.to_owned(), why: why.clone() });
        let deploy = self.renewal(now, Scope::Only([name.to_owned()].into()), false, Some(&why));
        self.start_rollout(now, step, deploy, Some(BY.to_owned()), false);
    }

    /// What comes before a rollout of the guard.
    fn guard_waits_for(&self, name: &str) -> Option<String> {
        let unmet = self.memory.targets.iter().find(|(_, target)| target.unmet().is_some());
        let proven = self.policy.targets.get(name).is_some_and(TargetRules::has_proof);
        let waits = if self.policy.unusable.is_some() {
            "a configuration that can be used"
        } else if self.journal_problem.is_some() {
            "the journal"
        } else if let Some(hold) = &self.memory.hold {
            return Some(format!("the hold of {}", hold.by));
        } else if self.memory.rollout.is_some() {
            "the end of the rollout"
        } else if self.pending.is_some() || self.memory.beginning().is_some() {
            "the deploy that has begun"
        } else if let Some((unmet, _)) = unmet {
            return Some(format!("{unmet} to be renewed"));
        } else if proven && self.memory.stamp.is_none() {
            // Nobody could answer with the id of a deploy.
            "a first deploy, since its rules ask for a proof"
        } else {
            return None;
        };
        Some(waits.to_owned())
    }

    /// The php-fpm of this target that gets the requests.
    fn guarded_unit(&self, name: &str) -> Option<String> {
        match (self.works.get(name)?, self.policy.targets.get(name)?) {
            (Work::Fpm, TargetRules::PhpFpm(rules)) => Some(rules.unit.clone()),
            (Work::Generations(work), _) => work.serves().map(str::to_owned),
            _ => None,
        }
    }

    pub(in crate::core) fn guard_deadline(&self) -> Option<Deadline> {
        if self.settling() {
            return None;
        }
        let due = |(name, guarded): (&String, &Guarded)| {
            let asks = guarded.pending.is_none() && self.progress(name) != Progress::Working;
            asks.then(|| Deadline::new(guarded.next, format!("{name}: ask for its opcache")))
        };
        earliest(self.opcaches.targets.iter().map(due))
    }
}

/// A status socket answers also when all workers are busy (facts 3d), and runs any script (facts 3e).
fn socket_of(rules: Option<&TargetRules>, layout: &FpmLayout) -> Result<String, String> {
    let (named, shared) = match rules {
        Some(TargetRules::PhpFpm(rules)) => (rules.status.clone(), false),
        Some(TargetRules::Generations(rules)) => (None, rules.shared()),
        _ => (None, false),
    };
    let status = layout.pools.iter().find_map(|pool| pool.status_listen.clone());
    let own = layout.pools.first().map(|pool| pool.listen.clone()).filter(|_| !shared);
    named.or(status).or(own).ok_or_else(|| "it has no socket of its own: set pm.status_listen".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::policy::{AtMax, FpmRules, GenerationRules};
    use crate::core::seen::PoolLayout;

    fn layout(status: [Option<&str>; 2]) -> FpmLayout {
        let pool = |name: &str, status: Option<&str>| PoolLayout {
            name: name.to_owned(),
            listen: format!("/run/{name}.sock"),
            status_listen: status.map(str::to_owned),
            ..PoolLayout::default()
        };
        FpmLayout { pools: vec![pool("a", status[0]), pool("b", status[1])], ..FpmLayout::default() }
    }

    fn in_place(status: Option<&str>) -> TargetRules {
        TargetRules::PhpFpm(FpmRules {
            unit: "a.service".to_owned(),
            drain_timeout: Duration::ZERO,
            term_timeout: Duration::ZERO,
            status: status.map(str::to_owned),
            status_path: None,
            warm: Vec::new(),
            proof: None,
            opcache: None,
        })
    }

    fn generations(socket: &str) -> TargetRules {
        TargetRules::Generations(GenerationRules {
            unit: "a@.service".to_owned(),
            socket: socket.to_owned(),
            linger: Duration::ZERO,
            max_generations: 2,
            at_max: AtMax::Wait,
            min_available_memory: None,
            term_timeout: Duration::ZERO,
            warm: Vec::new(),
            proof: None,
            opcache: None,
        })
    }

    #[test]
    fn a_socket_that_only_this_php_fpm_answers() {
        let of = |rules: &TargetRules, status| socket_of(Some(rules), &layout(status));
        assert_eq!(of(&in_place(None), [None, None]).as_deref(), Ok("/run/a.sock"));
        assert_eq!(of(&in_place(None), [None, Some("/run/b.status")]).as_deref(), Ok("/run/b.status"), "all pools share one opcache");
        assert_eq!(of(&in_place(Some("127.0.0.1:9001")), [Some("/run/a.status"), None]).as_deref(), Ok("127.0.0.1:9001"));
        assert_eq!(of(&generations("/run/current.sock"), [None, None]).as_deref(), Ok("/run/a.sock"));
        assert_eq!(of(&generations("a.socket"), [Some("/run/g1.status"), None]).as_deref(), Ok("/run/g1.status"));
        assert!(of(&generations("a.socket"), [None, None]).unwrap_err().contains("pm.status_listen"), "the port is everybody's");
        assert!(socket_of(Some(&in_place(None)), &FpmLayout::default()).is_err());
    }
}
