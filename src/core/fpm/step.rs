//! The steps of the way, and what each means for the bracket.

use super::Fpm;
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::Mono;

/// What it is on its way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It is restarted in place.
    Renew,
    /// A new generation: it is started beside those that run.
    Start,
    /// An old one: it is stopped when it has finished.
    End,
}

/// Why an old generation is ended before it has lingered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Early {
    /// Another one is to have its room.
    ForRoom,
    /// It is bad, takes new requests, and does not say who of it is idle.
    Mute,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FpmStep {
    Testing,
    Inspecting,
    /// Ready for the bracket to take the host out and drain.
    Prepared,
    /// It goes on until the bracket does: what is idle now may be busy by then.
    Draining {
        until: Mono,
    },
    /// Idle workers are being ended, so that they take no other request: it goes back to draining.
    Retiring,
    /// It is looked at once more: whether somebody else has restarted it, and its processes, for the cut.
    Seeing,
    /// First full status of the cut.
    Counting,
    Freezing,
    Recounting,
    Thawing,
    Finishing,
    WaitingForLoan,
    Restarting,
    /// Where it listens was not to be learned before its restart: its configuration is read now.
    Reading,
    Verifying {
        until: Mono,
    },
    /// Its status page is asked for its start time.
    Dating {
        until: Mono,
    },
    Warming,
    Proving {
        until: Mono,
    },
    Done,
    /// Somebody else has stopped it: it is not for this agent to start it.
    Stopped,
    /// Nothing was signalled: the old code keeps serving.
    Refused(String),
    /// It was restarted and does not serve as it should.
    Broken(String),
}

impl Fpm {
    /// Whether workers are stopped for the count, or about to be, and go on by what it does itself.
    #[must_use]
    pub fn counting(&self) -> bool {
        self.keeps_stopped()
            || matches!(
                self.step,
                FpmStep::Retiring
                    | FpmStep::Counting
                    | FpmStep::Freezing
                    | FpmStep::Recounting
                    | FpmStep::Thawing
                    | FpmStep::Finishing
                    | FpmStep::WaitingForLoan
                    | FpmStep::Restarting
            )
    }

    #[must_use]
    pub fn at_rest(&self) -> bool {
        matches!(self.step, FpmStep::Done | FpmStep::Stopped | FpmStep::Refused(_) | FpmStep::Broken(_))
    }

    /// Whether it has been touched, so that there is no way back.
    #[must_use]
    pub fn committed(&self) -> bool {
        !matches!(
            self.step,
            FpmStep::Testing
                | FpmStep::Inspecting
                | FpmStep::Prepared
                | FpmStep::Draining { .. }
                | FpmStep::Retiring
                | FpmStep::Stopped
                | FpmStep::Refused(_)
        )
    }

    /// Nothing of it has been stopped, not even for the count. What its restart waits for may take long after the drain, and until then it can be
    /// left as it is.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        !self.committed() || (self.only_waits() && self.frozen.is_empty())
    }

    /// It has drained, and none of its workers is stopped for the count.
    pub(super) fn only_waits(&self) -> bool {
        match self.step {
            FpmStep::Seeing | FpmStep::Counting => true,
            FpmStep::WaitingForLoan => !self.is_counted(),
            _ => false,
        }
    }

    /// Its workers are counted, and stopped for that: it has some, and a status page that names them.
    pub(super) fn is_counted(&self) -> bool {
        self.source.asks() && self.seen.active.runs()
    }

    /// Whether it, or its workers, are being stopped: until then it can serve again.
    #[must_use]
    pub fn is_past_return(&self) -> bool {
        let spared = self.needed && self.step == FpmStep::Done;
        self.committed() && !self.only_waits() && !spared
    }

    /// Its restart has been asked for, or is not needed.
    #[must_use]
    pub fn restarted_or_past(&self) -> bool {
        match self.step {
            FpmStep::Restarting => true,
            _ if self.at_rest() => true,
            _ => self.committed() && !self.counting() && self.step != FpmStep::Seeing,
        }
    }

    pub(super) fn enter(&mut self, now: Mono, step: FpmStep) {
        self.step = step;
        self.since = now;
        self.next = now;
    }

    pub(super) fn refuse(&mut self, turn: &mut Turn<'_>, why: String) {
        turn.unit_ended(&self.target, &self.unit, UnitEnd::Failed, why.clone());
        self.enter(turn.now.mono, FpmStep::Refused(why));
    }

    pub(super) fn break_down(&mut self, turn: &mut Turn<'_>, why: String) {
        turn.unit_ended(&self.target, &self.unit, UnitEnd::Failed, why.clone());
        self.enter(turn.now.mono, FpmStep::Broken(why));
    }
}
