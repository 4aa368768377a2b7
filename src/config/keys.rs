//! Every key there is: name, type, default and what it means. Validation and the reference page both come from this table.

use super::section::{Fallback, Key, Section, Type};

/// The kinds of targets that this version knows.
pub(super) const KINDS: &[&str] = &["php-fpm", "scheduled", "service", "strays"];

const fn key(section: Section, name: &'static str, takes: Type, default: Fallback, says: &'static str) -> Key {
    Key { section, name, takes, default, says }
}

const STRATEGY: Type = Type::Word { of: &["restart", "generations"], not_yet: &[] };
const KIND: Type = Type::Word { of: KINDS, not_yet: &[] };

use Fallback::{Absent, Is, Required};
use Section::{Generations, Opcache, PhpFpm, Pool, Proof, Scheduled, Service, Stamp, Strays};

/// In the order of the reference page.
pub const KEYS: &[Key] = &[
    key(
        Stamp,
        "path",
        Type::Path,
        Required,
        "The file that a deploy hook touches when new code has landed. Required as soon as there is a target. It need not exist yet; a symlink, an atomic rename, a directory made later are all fine.",
    ),
    key(
        Stamp,
        "settle",
        Type::Time,
        Is("500ms"),
        "Changes within this time of each other are one deploy; measured from the first change it is at most five times this.",
    ),
    key(
        Stamp,
        "min_interval",
        Type::Time,
        Is("5s"),
        "Between the starts of two rollouts, however often the stamp is touched; the newest deploy wins.",
    ),
    key(
        Stamp,
        "begin_timeout",
        Type::TimeAboveZero,
        Is("15m"),
        "How long `phase = \"begin\"` in the stamp may hold back the starts of scripts of `scheduled` targets.",
    ),
    key(
        Stamp,
        "identity",
        Type::Word { of: &["mtime", "content"], not_yet: &[] },
        Is("mtime"),
        "`mtime`: any new mtime or content is a deploy; `content`: only new content is.",
    ),
    key(
        Pool,
        "depool",
        Type::Argv,
        Required,
        "Takes this host out of the load balancer. Exit 0 means done. Never a shell: write one yourself if you need it.",
    ),
    key(Pool, "repool", Type::Argv, Required, "Puts it back. Run only if the agent took it out."),
    key(
        Pool,
        "check",
        Type::Argv,
        Required,
        "What the load balancer says: exit 0 means pooled, 1 depooled, anything else unknown. Unknown never counts as depooled.",
    ),
    key(Pool, "timeout", Type::TimeAboveZero, Is("60s"), "For one command, and again for a change to show up in `check`."),
    key(Pool, "quiet", Type::Time, Is("1s"), "After the depool: drained means no request in flight and none accepted for this long."),
    key(PhpFpm, "kind", KIND, Required, "A php-fpm master with its workers."),
    key(PhpFpm, "unit", Type::Unit, Required, "The service, such as `php8.2-fpm.service`. No glob: one target for each php-fpm."),
    key(
        PhpFpm,
        "strategy",
        STRATEGY,
        Is("restart"),
        "`restart`: in place. Depool, drain, RestartUnit, verify, repool. `generations`: see below.",
    ),
    key(
        PhpFpm,
        "drain_timeout",
        Type::Time,
        Is("5s"),
        "The wait threshold: how long requests in flight may go on, from the proof of the depool, without a pool from the start of the rollout.",
    ),
    key(PhpFpm, "term_timeout", Type::TimeAboveZero, Is("10s"), "From RestartUnit; then SIGKILL to the whole cgroup."),
    key(
        PhpFpm,
        "status",
        Type::Address,
        Absent,
        "The socket where php-fpm tells its status: a path, or IP:PORT. Left out: found by asking the unit's own php-fpm for its configuration.",
    ),
    key(PhpFpm, "status_path", Type::Uri, Absent, "php-fpm's `pm.status_path`. Left out: found in the same way."),
    key(
        PhpFpm,
        "warm",
        Type::Uris,
        Absent,
        "Scripts, with a query string if wanted, requested once each, one after the other, before repool.",
    ),
    key(
        PhpFpm,
        "proof",
        Type::Table(Proof),
        Absent,
        "What must be true of an answer before repool: `{ script = \"/srv/app/version.php\", expect = \"id\" }`.",
    ),
    key(PhpFpm, "opcache", Type::Table(Opcache), Absent, OPCACHE),
    key(Generations, "kind", KIND, Required, "A php-fpm, of which a deploy starts a new one beside the old one."),
    key(
        Generations,
        "strategy",
        STRATEGY,
        Required,
        "`generations`: start, warm up, prove, switch the symlink, let the old one finish. No request is lost, and the pool is not left.",
    ),
    key(
        Generations,
        "unit",
        Type::Template,
        Required,
        "The template, such as `php-fpm-job@.service`, of which each generation is an instance. `restart-agent migrate-pool` writes one.",
    ),
    key(
        Generations,
        "socket",
        Type::SocketLink,
        Required,
        "The symlink that the web server connects to, such as `/run/php/job/current.sock`: each generation listens beside it, on `GENERATION.sock`. Or the name of a .socket unit that holds a TCP port: all generations share it.",
    ),
    key(
        Generations,
        "linger",
        Type::Time,
        Is("24h"),
        "How long requests of an old generation, and what they have started, may go on after the switch. Then SIGTERM.",
    ),
    key(Generations, "max_generations", Type::Count, Is("8"), "So many run at once, the one that serves and the new one included."),
    key(
        Generations,
        "at_max",
        Type::Word { of: &["wait", "end-oldest"], not_yet: &[] },
        Is("wait"),
        "Then: `wait`, and status says for which request; or `end-oldest`: the oldest is ended, whatever it is at.",
    ),
    key(
        Generations,
        "min_available_memory",
        Type::Size,
        Absent,
        "With less memory available (`MemAvailable`) no generation is started: the rollout waits, and says so. `plan` shows what the last one took.",
    ),
    key(
        Generations,
        "term_timeout",
        Type::TimeAboveZero,
        Is("10s"),
        "From StopUnit of one that has lingered too long; then SIGKILL to the whole cgroup.",
    ),
    key(
        Generations,
        "warm",
        Type::Uris,
        Absent,
        "Scripts, with a query string if wanted, requested of the new generation once each, one after the other, before the switch.",
    ),
    key(
        Generations,
        "proof",
        Type::Table(Proof),
        Absent,
        "What must be true of an answer of the new generation before the switch: `{ script = \"/srv/app/version.php\", expect = \"id\" }`.",
    ),
    key(Generations, "opcache", Type::Table(Opcache), Absent, OPCACHE),
    key(Scheduled, "kind", KIND, Required, "Services that timers start. Only running ones are touched."),
    key(
        Scheduled,
        "units",
        Type::Units,
        Required,
        "Names or globs of services, such as `mediawiki_job_*.service`. The services, not their timers.",
    ),
    key(Scheduled, "exclude", Type::Excluded, Absent, "Names or globs that are none of this target's business."),
    key(
        Scheduled,
        "drain_timeout",
        Type::Time,
        Is("30s"),
        "A running script may end by itself in this time, counted from the start of the rollout that first found it stale.",
    ),
    key(
        Scheduled,
        "checkpoint_timeout",
        Type::Time,
        Is("0s"),
        "After the drain a script is asked to stop, by a file (see `should-stop`), and has this long to reach a checkpoint. `0s`: it is not asked.",
    ),
    key(
        Scheduled,
        "overdue",
        Type::Word { of: &["stop", "finish"], not_yet: &[] },
        Is("stop"),
        "After that: `stop` it, or let it `finish`; status then shows it as left.",
    ),
    key(Scheduled, "ask", Type::Argv, Absent, ASK),
    key(Scheduled, "unask", Type::Argv, Absent, UNASK),
    key(Scheduled, "term_timeout", Type::TimeAboveZero, Is("20s"), "From StopUnit; then SIGKILL to the whole cgroup."),
    key(
        Scheduled,
        "hold_timeout",
        Type::Time,
        Is("5m"),
        "A script that holds its lock (see `protect`) when SIGTERM is due is spared until it lets go of it, at most this long.",
    ),
    key(
        Scheduled,
        "after",
        Type::Word { of: &["auto", "rerun", "until-next"], not_yet: &[] },
        Is("auto"),
        "Of a stopped script: `rerun` it now, leave it quiet `until-next` scheduled run, or `auto`: see `quiet_within`.",
    ),
    key(
        Scheduled,
        "quiet_within",
        Type::Time,
        Is("1d"),
        "With `after = \"auto\"`: if the next scheduled run is within this, leave the script quiet until then; else rerun it.",
    ),
    key(
        Scheduled,
        "settle_after",
        Type::Time,
        Is("0s"),
        "Before a rerun, from the end of the run: for a lock or the like that it leaves behind and that is stale only after a while. The rerun stays owed until then, also over a restart of the agent or the host; a scheduled run that comes first is that run.",
    ),
    key(
        Scheduled,
        "max_interruptions",
        Type::Count,
        Is("3"),
        "A script that was interrupted this often in a row is let finish once; status and metrics say so.",
    ),
    key(
        Scheduled,
        "code",
        Type::Names,
        Absent,
        "Only processes of these names carry deployed code: globs of the file name in argv[0], or of the process's own name, such as `php*`. A shell loop that starts a fresh php for each wiki is then not stale by the age of its shell. Left out: every process of the unit.",
    ),
    key(Service, "kind", KIND, Required, "Long-running services other than php-fpm: queue workers, monitors. Renewed by RestartUnit."),
    key(Service, "units", Type::Units, Required, "Names or globs of services, such as `queue-worker@*.service`."),
    key(Service, "exclude", Type::Excluded, Absent, "Names or globs that are none of this target's business."),
    key(Service, "code", Type::Names, Absent, "Only processes of these names carry deployed code, as for `scheduled`."),
    key(Service, "drain_timeout", Type::Time, Is("0s"), "A stale service may end by itself, or be renewed by somebody else, in this time."),
    key(Service, "checkpoint_timeout", Type::Time, Is("0s"), SERVICE_CHECKPOINT),
    key(Service, "ask", Type::Argv, Absent, ASK),
    key(Service, "unask", Type::Argv, Absent, UNASK),
    key(Service, "hold_timeout", Type::Time, Is("0s"), SERVICE_HOLD),
    key(
        Service,
        "overdue",
        Type::Word { of: &["stop", "finish"], not_yet: &[] },
        Is("stop"),
        "After that: `stop` it by a restart, or let it `finish`: it is never restarted by the agent, and status shows it as left.",
    ),
    key(Service, "term_timeout", Type::TimeAboveZero, Is("20s"), "From RestartUnit; then SIGKILL to the whole cgroup."),
    key(
        Strays,
        "kind",
        KIND,
        Required,
        "Processes that carry deployed code outside of every unit of a target: in people's sessions, of cron and at, in transient units.",
    ),
    key(
        Strays,
        "code",
        Type::Programs,
        Required,
        "The processes that are meant, by the file name in argv[0] or by their own name, such as `php*`. No glob that matches a shell.",
    ),
    key(
        Strays,
        "action",
        Type::Word { of: &["report", "notify", "stop"], not_yet: &[] },
        Is("report"),
        "`report` them in `status`; `notify` their terminals as well, once for each deploy; or `stop` them after `drain_timeout`. Processes of services that are neither cron's nor at's nor transient are only ever reported.",
    ),
    key(Strays, "drain_timeout", Type::Time, Is("30s"), "With `action = \"stop\"`: a stray may end by itself in this time."),
    key(Strays, "term_timeout", Type::TimeAboveZero, Is("20s"), "From SIGTERM; then SIGKILL. Both go to the process alone."),
    key(Proof, "script", Type::Path, Required, "The script's file, requested through php-fpm."),
    key(
        Proof,
        "expect",
        Type::Word { of: &["id"], not_yet: &[] },
        Is("id"),
        "`id`: the answer must contain the deploy's id, or that of a stamp that has come since.",
    ),
    key(Opcache, "min_free", Type::Size, Absent, "Crossed when less of its memory is free."),
    key(Opcache, "min_free_keys", Type::Number, Absent, "Crossed when fewer of its keys are free. A script takes at least one."),
    key(Opcache, "max_wasted", Type::Percent, Absent, "Crossed when more of its memory holds what is not used any more."),
    key(Opcache, "every", Type::TimeAboveZero, Is("1m"), "Between two requests of the agent that ask for the figures."),
];

const OPCACHE: &str = "The opcache guard: `{ min_free = \"200M\", min_free_keys = 5000, max_wasted = \"20%\", every = \"1m\" }`. When a bound is crossed, or PHP calls the opcache full, a rollout of this target begins. Left out: no guard.";

const SERVICE_CHECKPOINT: &str = "After the drain a service is asked to stop, by a file (see `should-stop`), and has this long to reach a checkpoint. One that ends there with exit status 0 or 75 is started again. `0s`: it is not asked.";
const SERVICE_HOLD: &str = "A service that holds its lock (see `protect`) when its restart is due is spared until it lets go of it, at most this long. `0s`: it is not spared.";
const ASK: &str = "How to ask what looks at neither file nor lock: run once for each unit when it is asked, `{unit}` in its words stands for the unit, and so does `RESTART_AGENT_UNIT` in its environment. Needs `checkpoint_timeout`. Never a shell.";
const UNASK: &str = "Takes back what `ask` did: run when the unit has ended or the request is given up, whatever happens in between.";

/// Where a key of the contract stands that this version refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Top,
    Stamp,
    Pool,
    Target,
}

/// Keys and tables of the contract whose feature does not exist yet: refused with a message that says so.
pub const NOT_YET: &[(Level, &str)] =
    &[(Level::Top, "mode"), (Level::Top, "slot"), (Level::Pool, "haproxy"), (Level::Pool, "servers"), (Level::Pool, "file")];

/// The key of this name in this section.
pub(super) fn find(section: Section, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// The keys of a section.
pub(super) fn of(section: Section) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.section == section)
}

pub(super) fn is_not_yet(level: Level, name: &str) -> bool {
    NOT_YET.contains(&(level, name))
}
