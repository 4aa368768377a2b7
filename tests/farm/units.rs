//! The 208 scheduled units of a real farm: names and gaps from the fixture, a stand-in script each, calendars compressed, rules by class.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use jiff::Timestamp;
use lab::jobs::Job;
use lab::ledger::{Play, stand_in};

const FIXTURE: &str = include_str!("../fixtures/wikimedia-timers.tsv");
/// A day of the farm is 20 seconds here, a week two minutes and a third.
const COMPRESSED: f64 = 4320.0;
const SHORTEST_GAP: f64 = 5.0;
/// Every unit has its first slot within this, in seconds.
pub const FIRST_SLOTS: f64 = 90.0;
/// Slots go on so long. One more, a day later, keeps every timer with a next elapse.
pub const SLOTS: f64 = 400.0;
/// `quiet_within` of the targets whose rule is `auto`.
pub const QUIET_WITHIN: f64 = 15.0;

/// What comes after a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Rerun,
    UntilNext,
    Auto,
}

/// The units of one target, or of none.
#[derive(Debug, PartialEq, Eq)]
pub struct Class {
    pub target: &'static str,
    /// Begins of names, without `.service`.
    begins: &'static [&'static str],
    rules: &'static str,
    pub after: After,
    /// Nothing of it is ever signalled.
    pub spared: bool,
    /// What its scripts do, and whether they are long.
    plays: &'static [(Play, bool)],
}

const EXCLUDED: &str = "mediawiki_job_echo_mail_batch";

/// The first that fits is a unit's class.
static CLASSES: [Class; 8] = [
    Class { target: "", begins: &[EXCLUDED], rules: "", after: After::UntilNext, spared: true, plays: &[(Play::Dies, true)] },
    Class {
        target: "purges",
        begins: &["mediawiki_job_purge_"],
        rules: "drain_timeout = \"500ms\"\noverdue = \"finish\"\n",
        after: After::UntilNext,
        spared: true,
        plays: &[(Play::Dies, true), (Play::Wrapper, true), (Play::Dies, false)],
    },
    Class {
        target: "querypages",
        begins: &["mediawiki_job_updatequerypages_"],
        rules: "drain_timeout = \"1s\"\nterm_timeout = \"3s\"\nafter = \"rerun\"\n",
        after: After::Rerun,
        spared: false,
        plays: &[
            (Play::Wrapper, true),
            (Play::LoopOfPhp, true),
            (Play::Dies, true),
            (Play::TrapsAndExits143, true),
            (Play::Ignores, true),
            (Play::TrapsAndExits0, true),
            (Play::Fails, true),
            (Play::ChildIgnores, true),
        ],
    },
    Class {
        target: "growth",
        begins: &["mediawiki_job_growthexperiments-"],
        rules: "drain_timeout = \"1s\"\nterm_timeout = \"3s\"\nafter = \"until-next\"\nmax_interruptions = 100\n",
        after: After::UntilNext,
        spared: false,
        plays: &[
            (Play::Dies, false),
            (Play::Wrapper, true),
            (Play::LeavesLock, true),
            (Play::TrapsAndExits0, true),
            (Play::Ignores, true),
            (Play::LoopOfPhp, true),
        ],
    },
    Class {
        target: "maintenance",
        begins: &["mediawiki_job_"],
        rules: "drain_timeout = \"1s\"\nterm_timeout = \"3s\"\nafter = \"auto\"\nquiet_within = \"15s\"\n",
        after: After::Auto,
        spared: false,
        plays: &[
            (Play::Dies, false),
            (Play::LoopOfPhp, true),
            (Play::Wrapper, true),
            (Play::Dies, true),
            (Play::TrapsAndExits0, true),
            (Play::TrapsAndExits143, true),
            (Play::Fails, false),
        ],
    },
    Class {
        target: "snapshot",
        begins: &["adds-changes", "dumps_fillin_wd", "fulldumps-rest", "partialdumps-rest", "commons", "wikidata"],
        rules: "drain_timeout = \"1s\"\ncheckpoint_timeout = \"4s\"\nterm_timeout = \"3s\"\nafter = \"rerun\"\nmax_interruptions = 100\n",
        after: After::Rerun,
        spared: false,
        plays: &[(Play::Resumable, true), (Play::Resumable, true), (Play::Wrapper, true)],
    },
    Class {
        target: "dumps",
        begins: &["cirrussearch-dump-", "categoriesrdf-dump", "pagetitles-", "xlation-dumps", "list-media-per-project"],
        rules: "drain_timeout = \"1s\"\nterm_timeout = \"3s\"\nafter = \"until-next\"\n",
        after: After::UntilNext,
        spared: false,
        plays: &[(Play::LeavesLock, true), (Play::Wrapper, true)],
    },
    Class {
        target: "others",
        begins: &[""],
        rules: "drain_timeout = \"0s\"\nterm_timeout = \"3s\"\nafter = \"auto\"\nquiet_within = \"15s\"\n",
        after: After::Auto,
        spared: false,
        plays: &[(Play::Dies, true), (Play::Dies, false), (Play::Ignores, true), (Play::TrapsAndExits143, true)],
    },
];

/// One unit of the farm, with all its slots.
#[derive(Debug)]
pub struct Unit {
    /// Without `.service`.
    pub name: String,
    pub class: &'static Class,
    pub play: Play,
    pub on_failure: bool,
    pub on_success: bool,
    seconds: u32,
    /// Seconds since 1970.
    pub slots: Vec<f64>,
}

/// All of them; the first slots come after `begin`.
pub fn all(begin: f64) -> Result<Vec<Unit>> {
    let rows = FIXTURE.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.enumerate()
        .map(|(n, row)| {
            let columns: Vec<&str> = row.split('\t').collect();
            let [unit, _, _, _, _, gap, ..] = columns[..] else { anyhow::bail!("a row of the fixture: {row}") };
            // One name has a variable of Puppet in it, which systemd would refuse.
            let name = unit.strip_suffix(".service").context(unit.to_owned())?.replace("${title}", "kiwix");
            let class = CLASSES.iter().find(|class| class.begins.iter().any(|begin| name.starts_with(begin))).context(name.clone())?;
            Ok(unit_of(n, name, class, seconds(gap)?, begin))
        })
        .collect()
}

/// The middle of `86400..259200`; a day where the farm's own calendar is not known.
fn seconds(gap: &str) -> Result<f64> {
    if gap == "-" {
        return Ok(86_400.0);
    }
    let ends: Vec<f64> = gap.split("..").map(str::parse).collect::<Result<_, _>>()?;
    Ok(ends.iter().sum::<f64>() / ends.len() as f64)
}

fn unit_of(n: usize, name: String, class: &'static Class, gap: f64, begin: f64) -> Unit {
    let gap = (gap / COMPRESSED).max(SHORTEST_GAP);
    let (play, long) = class.plays[n % class.plays.len()];
    let length = match play {
        _ if !long => 1.0,
        // A fresh php each second costs most.
        Play::LoopOfPhp => (gap * 1.6).clamp(7.0, 12.0),
        _ => (gap * 1.6).clamp(7.0, 30.0),
    };
    let phase = (n * 37) as f64 % gap.min(FIRST_SLOTS);
    let slots = (0..).map(|k| (begin + phase + f64::from(k) * gap).floor()).take_while(|slot| *slot < begin + SLOTS);
    Unit {
        play,
        // Most have OnFailure=, a few OnSuccess=, and fewer both.
        on_failure: !(n.is_multiple_of(7) || n % 13 == 4) || n % 25 == 3,
        on_success: n % 13 == 4 || n % 25 == 3,
        seconds: length as u32,
        slots: slots.collect(),
        name,
        class,
    }
}

impl Unit {
    pub fn service(&self) -> String {
        format!("{}.service", self.name)
    }

    pub fn timer(&self) -> String {
        format!("{}.timer", self.name)
    }

    /// Its service and timer as the farm has them: Type=oneshot, a user of its own, no Persistent=.
    pub fn job(&self) -> Result<Job> {
        let mut calendar = "AccuracySec=100ms\n".to_owned();
        let last = self.slots.last().context("no slot")? + 86_400.0;
        for slot in self.slots.iter().chain([&last]) {
            let _ = writeln!(calendar, "OnCalendar={}", Timestamp::from_second(*slot as i64)?.strftime("%Y-%m-%d %H:%M:%S UTC"));
        }
        let mut job = stand_in(&self.name, self.play, self.seconds).service("User=www-data").timer(&self.name, &calendar);
        if self.on_failure {
            job = job.on_failure();
        }
        if self.on_success {
            job = job.on_success();
        }
        Ok(job)
    }

    /// Whether no rule lets it be signalled: any stop would start the unit of its OnFailure= or of its OnSuccess=.
    pub fn spared(&self) -> bool {
        self.class.spared || (self.on_failure && self.on_success)
    }
}

/// The targets. What belongs to a class before it, a glob leaves out.
pub fn config() -> String {
    let mut text = "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"200ms\"\nmin_interval = \"1s\"\n".to_owned();
    let globs = |class: &Class| -> Vec<String> { class.begins.iter().map(|begin| format!("{begin}*.service")).collect() };
    for (n, class) in CLASSES.iter().enumerate().filter(|(_, class)| !class.target.is_empty()) {
        let exclude: Vec<String> = CLASSES[..n].iter().flat_map(globs).collect();
        let units = match class.begins {
            // What is the system's own is none of the farm's.
            [""] => OTHERS.iter().map(|name| format!("{name}*.service")).collect(),
            _ => globs(class),
        };
        let _ =
            write!(text, "\n[target.{}]\nkind = \"scheduled\"\nunits = {units:?}\nexclude = {exclude:?}\n{}", class.target, class.rules);
    }
    text
}

const OTHERS: [&str; 17] = [
    "cleanup-addschanges",
    "cleanup-misc-dumps",
    "cleanup_tmpdumps",
    "cleanup_xmldumps",
    "download_enterprise_htmldumps",
    "dump-jobs-watcher",
    "dumps-",
    "growth_mentorship_dump",
    "kiwix-mirror-update",
    "list-good-dumps",
    "php7.4-fpm_check_restart",
    "prometheus-phpfpm-statustext-textfile",
    "rsync_enterprise_htmldumps",
    "rsync_nginxlogs",
    "shorturls",
    "update-dump-statusfiles",
    "wikitech",
];
