//! Stories in which the agent dies: at every point at which it can, or at a sample of these.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{Crash, Host};
use crate::plan::Planned;
use crate::world::{MS, S, Us};

/// Something that befalls a host, by a name that tells it.
pub struct Story {
    pub name: String,
    /// How long it takes.
    span: Us,
    build: Box<dyn Fn() -> Host + Send + Sync>,
    /// What must have come of it when the agent does not die, or it is not the story that its name promises.
    shows: Option<Check>,
    /// What holds beyond the rules for all hosts, wherever the agent dies.
    always: Option<Check>,
    /// The plan from before it says what is then done: nothing fails in it, and nobody changes his mind.
    planned: bool,
}

type Check = Box<dyn Fn(&Host) -> bool + Send + Sync>;

impl Story {
    /// `build`: a host at rest, to which everything is still to happen.
    pub fn new(name: impl Into<String>, seconds: u64, build: impl Fn() -> Host + Send + Sync + 'static) -> Story {
        Story { name: name.into(), span: seconds * S, build: Box::new(build), shows: None, always: None, planned: false }
    }

    #[must_use]
    pub fn shows(mut self, check: impl Fn(&Host) -> bool + Send + Sync + 'static) -> Story {
        self.shows = Some(Box::new(check));
        self
    }

    #[must_use]
    pub fn always(mut self, check: impl Fn(&Host) -> bool + Send + Sync + 'static) -> Story {
        self.always = Some(Box::new(check));
        self
    }

    #[must_use]
    pub fn as_planned(mut self) -> Story {
        self.planned = true;
        self
    }

    /// Lives it through, and gives back the host at rest, and at how many points the agent could have died.
    fn live(&self, death: Option<Death>, told: bool) -> (Host, u64) {
        let mut host = (self.build)();
        host.world.story.told = told;
        host.world.story.lines.clear();
        let before = host.points;
        if let Some(death) = death {
            host.crash = Some(Crash { at: before + death.at, down: death.down, removed: death.removed });
            host.crash_late = death.late;
        }
        let planned = (self.planned && death.is_none()).then(|| Planned::now(&mut host));
        host.run(self.span);
        let points = host.points - before;
        if let Some(planned) = planned {
            planned.compare(&mut host);
        }
        if death.is_some_and(|death| death.removed) && host.crashes > 0 {
            host.must_be_removed();
        } else {
            host.settle();
        }
        (host, points)
    }

    /// What was wrong, and the points.
    fn judge(&self, death: Option<Death>) -> (Option<String>, u64) {
        let lived = catch_unwind(AssertUnwindSafe(|| {
            let (host, points) = self.live(death, false);
            let holds = |check: &Option<Check>| check.as_ref().is_none_or(|check| check(&host));
            let wrong = match host.world.wrong.first() {
                Some(wrong) => Some(wrong.clone()),
                None if death.is_none() && !holds(&self.shows) => Some("it does not show what it is told for".to_owned()),
                None if death.is_none_or(|death| !death.removed) && !holds(&self.always) => {
                    Some("what always holds of it does not".to_owned())
                }
                None => None,
            };
            (wrong, points)
        }));
        lived.unwrap_or_else(|_| (Some("panic".to_owned()), 0))
    }

    /// Its timeline.
    #[must_use]
    pub fn timeline(&self, death: Option<Death>) -> Vec<String> {
        self.live(death, true).0.world.story.lines
    }
}

/// Where the agent dies, counted from the beginning of the story, how long after that point, and for how long it is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    pub at: u64,
    pub late: Us,
    pub down: Us,
    /// The package is being removed.
    pub removed: bool,
}

/// Each point four times: it is back at once; it is in the middle of what it has just begun; much has happened while it was away; it is being removed.
const DEATHS: [(Us, Us, bool); 4] = [(0, 50 * MS, false), (40 * MS, 2 * S, false), (0, 40 * S, false), (0, 50 * MS, true)];

fn deaths(points: u64, sample: Option<u64>) -> Vec<Death> {
    let all = points * 4;
    // Odd, so that each kind has its turn.
    let step = sample.map_or(1, |sample| (all / sample).max(1)) | 1;
    (0..all)
        .step_by(usize::try_from(step).unwrap_or(1))
        .map(|n| {
            let (late, down, removed) = DEATHS[usize::try_from(n % 4).unwrap_or(0)];
            Death { at: n / 4, late, down, removed }
        })
        .collect()
}

/// One run in which something happened that must not.
#[derive(Debug, Clone)]
pub struct Bad {
    pub story: String,
    pub death: Option<Death>,
    pub wrong: String,
}

/// What came of exploring stories.
#[derive(Debug, Default)]
pub struct Explored {
    pub points: u64,
    pub runs: usize,
    pub bad: Vec<Bad>,
}

/// Each story without a crash, then with the agent dying at about `sample` of its points, or at all of them. `keep_going`: also after a run in which
/// something was wrong.
#[must_use]
pub fn explore(stories: &[Story], sample: Option<u64>, keep_going: bool) -> Explored {
    let first: Vec<(usize, Option<Death>)> = (0..stories.len()).map(|story| (story, None)).collect();
    let (mut explored, counts) = run_all(stories, &first, keep_going);
    let mut second = Vec::new();
    for (story, points) in counts {
        second.extend(deaths(points, sample).into_iter().map(|death| (story, Some(death))));
        explored.points += points;
    }
    if explored.bad.is_empty() || keep_going {
        let (then, _) = run_all(stories, &second, keep_going);
        explored.runs += then.runs;
        explored.bad.extend(then.bad);
    }
    explored
}

/// How often it is told how far it is.
const SAYS_EVERY: Duration = Duration::from_secs(20);

/// On all cores; the points of each story are those of its runs without a crash.
fn run_all(stories: &[Story], runs: &[(usize, Option<Death>)], keep_going: bool) -> (Explored, Vec<(usize, u64)>) {
    let next = AtomicUsize::new(0);
    let told = Mutex::new((Explored::default(), Vec::new()));
    let said = Mutex::new(Instant::now());
    let work = || {
        while let Some((story, death)) = runs.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
            let (wrong, points) = stories[story].judge(death);
            let mut told = told.lock().unwrap();
            told.0.runs += 1;
            if death.is_none() {
                told.1.push((story, points));
            }
            if wrong.is_some() && !keep_going {
                next.store(runs.len(), Ordering::Relaxed);
            }
            told.0.bad.extend(wrong.map(|wrong| Bad { story: stories[story].name.clone(), death, wrong }));
            let mut said = said.lock().unwrap();
            if said.elapsed() >= SAYS_EVERY {
                *said = Instant::now();
                println!("{} of {} runs, {} in which something was wrong", told.0.runs, runs.len(), told.0.bad.len());
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (mut explored, mut counts) = told.into_inner().unwrap();
    explored.bad.sort_by(|one, two| (&one.story, one.death.map(|death| death.at)).cmp(&(&two.story, two.death.map(|death| death.at))));
    counts.sort_unstable();
    (explored, counts)
}
