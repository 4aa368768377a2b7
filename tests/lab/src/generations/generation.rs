//! One generation: started, asked, switched to, stopped; by hand, as the agent is to do it.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Generations, WebServer};
use crate::load::Switch;
use crate::wait_for;

/// Longer than any request that a hand-over by hand is to wait for.
const QUIET_DEADLINE: Duration = Duration::from_secs(90);

/// What php-fpm's workers do, idle ones aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Workers {
    /// Work on a request.
    pub busy: usize,
    /// Have a connection and no request: one that the web server holds, or that is just being read (facts F3j).
    pub held: usize,
}

impl Generations<'_> {
    /// Starts an instance and returns when systemd calls it active: php-fpm accepts, and current.sock leads somewhere.
    ///
    /// # Errors
    /// When it does not start; with its log.
    pub fn start(&self, instance: &str) -> Result<()> {
        let unit = self.unit(instance);
        self.host.ok(&["systemctl", "start", &unit]).with_context(|| self.host.journal(&unit).unwrap_or_default())?;
        Ok(())
    }

    /// `systemctl stop`: SIGTERM, which cuts what still runs.
    ///
    /// # Errors
    /// When systemctl fails.
    pub fn stop(&self, instance: &str) -> Result<()> {
        self.host.ok(&["systemctl", "stop", &self.unit(instance)]).map(drop)
    }

    /// What current.sock leads to, without ".sock"; none where there is no such symlink.
    ///
    /// # Errors
    /// When the host is off.
    pub fn current(&self) -> Result<Option<String>> {
        let read = self.host.run(&["readlink", &self.socket()])?;
        Ok(read.success().then(|| read.stdout.trim().trim_end_matches(".sock").to_owned()))
    }

    /// The instances whose unit is active, in the order of their names.
    ///
    /// # Errors
    /// When systemctl fails.
    pub fn active(&self) -> Result<Vec<String>> {
        let pattern = self.unit("*");
        let list = self.host.ok(&["systemctl", "list-units", "--plain", "--no-legend", "--state=active", &pattern])?;
        let instance = |line: &str| Some(line.split_whitespace().next()?.split_once('@')?.1.trim_end_matches(".service").to_owned());
        Ok(list.lines().filter_map(instance).collect())
    }

    /// New requests go to this instance from now on: an atomic rename of the symlink, or, over TCP, SIGQUIT to the main process of
    /// all others, so that they accept no more. Returns when that is so.
    ///
    /// # Errors
    /// When the link cannot be made, or another instance goes on accepting for 10 s.
    pub fn switch(&self, instance: &str, version: &str) -> Result<Switch> {
        let directory = self.directory();
        if self.server == WebServer::NginxTcp {
            for other in self.active()?.iter().filter(|other| *other != instance) {
                let unit = self.unit(other);
                // One that has finished what it had meanwhile has no main process, and no workers.
                let Ok(pid) = self.host.pid_of(&unit) else { continue };
                let told = self.host.run(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGQUIT", &unit])?;
                if told.status != 0 {
                    ensure!(self.host.pid_of(&unit).is_err(), "{unit}: {told:?}");
                    continue;
                }
                self.wait_not_accepting(&self.children(pid)?, "sport = :9000")?;
            }
        } else {
            self.host.sh_ok(&format!("cd {directory} && ln -sT {instance}.sock .switch && mv -T .switch current.sock"))?;
        }
        Ok(Switch { at: SystemTime::now(), instance: instance.to_owned(), version: version.to_owned() })
    }

    /// Waits until all workers of an instance are idle and nobody waits in its queue, in two looks. A connection that is held
    /// without a request may bring one at any moment.
    ///
    /// # Errors
    /// Not within 90 s; with what was seen last.
    pub fn wait_quiet(&self, instance: &str) -> Result<()> {
        let mut looks = 0;
        wait_for(&format!("{instance} to be quiet"), QUIET_DEADLINE, || {
            let (workers, queued) = (self.workers(instance)?, self.queued(instance)?);
            looks = if workers == Workers::default() && queued == 0 { looks + 1 } else { 0 };
            if looks == 2 { Ok(Some(())) } else { bail!("{workers:?}, {queued} in the queue") }
        })
    }

    /// A whole hand-over from the instance that is current: code, start, switch, and the old one is stopped when it is quiet. Over
    /// TCP the old one ends by itself.
    ///
    /// # Errors
    /// When a step fails.
    pub fn hand_over(&self, from: &str, to: &str, version: &str) -> Result<Switch> {
        let switch = self.begin(to, version)?;
        self.finish(from)?;
        Ok(switch)
    }

    /// The first half of a hand-over: code, start, switch.
    ///
    /// # Errors
    /// When a step fails.
    pub fn begin(&self, to: &str, version: &str) -> Result<Switch> {
        self.deploy_code(version)?;
        self.start(to)?;
        self.switch(to, version)
    }

    /// The second half: `from` is stopped when it is quiet, or ends by itself over TCP.
    ///
    /// # Errors
    /// When it is not quiet within 90 s.
    pub fn finish(&self, from: &str) -> Result<()> {
        if self.server != WebServer::NginxTcp {
            self.wait_quiet(from)?;
            return self.stop(from);
        }
        wait_for(&format!("{from} to end"), QUIET_DEADLINE, || {
            let state = self.host.property(&self.unit(from), "ActiveState")?;
            if state == "inactive" { Ok(Some(())) } else { bail!("{state}") }
        })
    }

    /// The full status of an instance, by its own status socket.
    ///
    /// # Errors
    /// When there is no answer within 10 s, or it is no JSON.
    pub fn fpm_status(&self, instance: &str) -> Result<Value> {
        let socket = format!("{}/{instance}.status.sock", self.directory());
        let ask = self.host.command(["cgi-fcgi", "-bind", "-connect", &socket]).timeout(Duration::from_secs(10));
        let answer = ask
            .env("REQUEST_METHOD", "GET")
            .env("SCRIPT_NAME", "/fpm-status")
            .env("SCRIPT_FILENAME", "/fpm-status")
            .env("QUERY_STRING", "json&full")
            .ok()?;
        let (_, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
        serde_json::from_str(body).with_context(|| answer.clone())
    }

    /// What the workers of an instance do.
    ///
    /// # Errors
    /// As [`Generations::fpm_status`].
    pub fn workers(&self, instance: &str) -> Result<Workers> {
        let status = self.fpm_status(instance)?;
        let processes = status["processes"].as_array().context("no processes in php-fpm's status")?;
        let mut workers = Workers::default();
        for process in processes {
            match process["state"].as_str() {
                Some("Idle") => {}
                Some("Reading headers") => workers.held += 1,
                _ => workers.busy += 1,
            }
        }
        Ok(workers)
    }

    /// How many connections wait to be accepted by an instance: php-fpm itself says 0 of a unix socket (facts F3f). None over TCP,
    /// where the queue belongs to all.
    fn queued(&self, instance: &str) -> Result<usize> {
        if self.server == WebServer::NginxTcp {
            return Ok(0);
        }
        let socket = format!("{}/{instance}.sock", self.directory());
        let lines = self.host.ok(&["ss", "--no-header", "--unix", "--listening", "src", &socket])?;
        let queues = lines.lines().map(|line| line.split_whitespace().nth(2).and_then(|queue| queue.parse().ok()));
        let queues: Vec<usize> = queues.collect::<Option<_>>().with_context(|| lines.clone())?;
        ensure!(queues.len() == 1, "{} sockets listen at {socket}: {lines}", queues.len());
        Ok(queues[0])
    }

    /// Reloads the web server, so that it lets go of the connections that it holds, and returns when its old processes accept no
    /// more: they finish what they have.
    ///
    /// # Errors
    /// When they accept after 10 s.
    pub fn reload_web_server(&self) -> Result<SystemTime> {
        let old = self.children(self.host.pid_of(self.server.unit())?)?;
        self.host.ok(&["systemctl", "reload", self.server.unit()])?;
        self.wait_not_accepting(&old, "sport = :8090")?;
        Ok(SystemTime::now())
    }

    fn children(&self, master: i32) -> Result<Vec<String>> {
        Ok(self.host.run(&["pgrep", "--parent", &master.to_string()])?.stdout.lines().map(str::to_owned).collect())
    }

    /// Waits until none of these processes holds the listening socket: who finishes closes it.
    fn wait_not_accepting(&self, processes: &[String], socket: &str) -> Result<()> {
        wait_for("old processes to stop accepting", Duration::from_secs(10), || {
            let listeners = self.host.ok(&["ss", "--no-header", "--tcp", "--listening", "--processes", socket])?;
            match processes.iter().filter(|pid| listeners.contains(&format!("pid={pid},"))).count() {
                0 => Ok(Some(())),
                left => bail!("{left} of {} accept", processes.len()),
            }
        })
    }
}
