//! A web stack in a host: HAProxy, nginx, and two php-fpm, one of which is the pool under test.
//!
//! ```text
//! load ─► HAProxy 127.0.0.1:8080, backend "jobs"
//!           ├─ mw1 ─► nginx 127.0.0.1:8081 ─► the distribution's php-fpm: the pool under test
//!           └─ mw2 ─► nginx 127.0.0.1:8082 ─► php-fpm-other.service: stands for another host
//! ```
//! Nothing on the way hides a lost request: HAProxy sends a request again only if it could not connect to
//! nginx (which always runs), nginx never does, and what php-fpm resets or refuses is a 502. Health checks
//! end at nginx. PHP does not look at files twice (`opcache.validate_timestamps=0`), so a php-fpm that was
//! not renewed answers with its old version for ever.

mod config;
mod scripts;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{Host, app, load};

/// HAProxy's frontend.
pub const BALANCER: &str = "127.0.0.1:8080";
/// nginx in front of the pool under test, which HAProxy calls `jobs/mw1`.
pub const POOL: &str = "127.0.0.1:8081";
/// nginx in front of the other php-fpm, which HAProxy calls `jobs/mw2`.
pub const OTHER: &str = "127.0.0.1:8082";
/// HAProxy's runtime API, with level admin.
pub const ADMIN_SOCKET: &str = "/run/haproxy/admin.sock";
/// What commands the contract's `[pool]` names: out of the pool, into it, and which of both.
pub const DEPOOL: &str = "/usr/local/bin/depool";
/// See [`DEPOOL`].
pub const REPOOL: &str = "/usr/local/bin/pool";
/// Exit status 0 pooled, 1 depooled, 2 unknown. See [`DEPOOL`].
pub const POOL_STATE: &str = "/usr/local/bin/pool-state";
/// One line `SECONDS.NANOSECONDS depool|pool SERVER` for each successful call of these two.
pub const POOL_LOG: &str = "/var/log/app/pool.log";
pub use crate::app::MARKERS;
/// The unit of the other php-fpm.
pub const OTHER_UNIT: &str = "php-fpm-other.service";
/// The version that [`Web::install`] deploys.
pub const FIRST_VERSION: &str = "v0";

/// How the pool under test says how busy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// `pm.status_listen` and `pm.status_path = /fpm-status`: answered even when all workers are busy.
    #[default]
    Socket,
    /// Only `pm.status_path = /fpm-status`, on the pool's own socket: takes a worker.
    Path,
    /// Neither.
    None,
}

/// How the web stack is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// php-fpm processes of the pool under test (`pm = static`), at least 1; the other has as many.
    pub children: u32,
    /// Of the pool under test.
    pub status: Status,
    /// `ping.path = /fpm-ping` for the pool under test.
    pub ping: bool,
    /// Further lines of the pool under test, such as "request_terminate_timeout = 60s\n".
    pub pool_directives: String,
    /// What `depool` does; both stop new requests at once and let those in flight finish.
    pub depool: Depool,
}

/// The state that `depool` gives to the server in HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depool {
    /// No new requests; health checks go on, so HAProxy knows the truth when it comes back.
    #[default]
    Drain,
    /// No new requests and no health checks.
    Maint,
}

impl Default for Options {
    fn default() -> Options {
        Options { children: 12, status: Status::default(), ping: true, pool_directives: String::new(), depool: Depool::default() }
    }
}

/// What HAProxy holds of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// Gets requests.
    Pooled,
    /// Set to drain or maintenance by somebody.
    Depooled,
    /// Not set so, but HAProxy finds it down.
    Down,
}

/// A web stack that runs in a host.
#[derive(Debug, Clone, Copy)]
pub struct Web<'h> {
    host: &'h Host,
}

impl<'h> Web<'h> {
    /// Writes all configuration, starts everything and returns when a request through HAProxy has been answered
    /// by each php-fpm. The start limits of their units are untouched: whoever restarts them has all tries.
    ///
    /// # Errors
    /// When a part does not start; with what it said.
    pub fn install(host: &'h Host, options: &Options) -> Result<Web<'h>> {
        let web = Web { host };
        let release = host.release();
        host.write("/etc/nginx/nginx.conf", config::nginx(release, options))?;
        host.write("/etc/haproxy/haproxy.cfg", config::haproxy())?;
        host.write(&format!("{}/pool.d/www.conf", release.fpm_etc()), config::pool(release, options))?;
        host.write(&format!("{}/conf.d/99-lab.ini", release.fpm_etc()), app::PHP_INI)?;
        host.write("/etc/php-other/php-fpm.conf", config::other_fpm(options))?;
        host.write(&format!("/etc/systemd/system/{OTHER_UNIT}"), config::other_unit(release))?;
        for (path, script) in [(DEPOOL, scripts::depool(options.depool)), (REPOOL, scripts::repool()), (POOL_STATE, scripts::pool_state())]
        {
            host.write_mode(path, script, 0o755)?;
        }
        app::install(host, FIRST_VERSION)?;
        let unit = release.fpm_unit();
        // HAProxy last: one failed health check at its start puts a server down.
        host.sh_ok(&format!(
            "systemctl daemon-reload && systemctl reset-failed && \
             systemctl restart {unit} {OTHER_UNIT} nginx.service && systemctl restart haproxy.service && \
             systemctl reset-failed || \
             {{ systemctl status --no-pager {unit} {OTHER_UNIT} nginx haproxy; exit 1; }}"
        ))?;
        for address in [POOL, OTHER, BALANCER] {
            let response = load::get(host, address, "/version.php", Duration::from_secs(10))
                .with_context(|| format!("GET http://{address}/version.php"))?;
            if response.status != 200 || response.body.trim() != FIRST_VERSION {
                bail!("GET http://{address}/version.php: {response:?}");
            }
        }
        Ok(web)
    }

    /// Puts a new version of the code in place by rename(2). Every php-fpm goes on with the old version, which its
    /// opcache holds, until it is renewed. Touching the stamp is left to the test.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn deploy_code(&self, version: &str) -> Result<()> {
        app::deploy(self.host, version)
    }

    /// The version that the pool under test serves.
    ///
    /// # Errors
    /// When it does not answer with status 200 within 10 s.
    pub fn served_version(&self) -> Result<String> {
        let response = load::get(self.host, POOL, "/version.php", Duration::from_secs(10))?;
        if response.status != 200 {
            bail!("version.php: {response:?}");
        }
        Ok(response.body.trim().to_owned())
    }

    /// The generation of the pool under test, as [`load::Served`] names it.
    ///
    /// # Errors
    /// When its unit has no main process.
    pub fn generation(&self) -> Result<String> {
        let pid = self.host.pid_of(self.host.release().fpm_unit())?;
        let stat = self.host.read(&format!("/proc/{pid}/stat"))?;
        let start = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19));
        Ok(format!("{pid}@{}", start.context("no start time in stat")?))
    }

    /// The full status of the pool under test, as php-fpm gives it in JSON.
    ///
    /// # Errors
    /// With [`Status::None`]; when it does not answer within 10 s; when it is no JSON.
    pub fn fpm_status(&self) -> Result<serde_json::Value> {
        let response = load::get(self.host, POOL, "/fpm-status?json&full", Duration::from_secs(10))?;
        serde_json::from_str(&response.body).with_context(|| format!("php-fpm status: {response:?}"))
    }

    /// The request URIs that the pool under test works on, such as "/work.php?id=7&ms=15".
    ///
    /// # Errors
    /// As [`Web::fpm_status`].
    pub fn in_flight(&self) -> Result<Vec<String>> {
        let status = self.fpm_status()?;
        let processes = status["processes"].as_array().context("no processes in php-fpm's status")?;
        let running = processes.iter().filter(|process| process["state"] == "Running");
        let uris = running.filter_map(|process| process["request uri"].as_str());
        Ok(uris.filter(|uri| !uri.starts_with("/fpm-status")).map(str::to_owned).collect())
    }

    /// What HAProxy holds of a server: "mw1", the pool under test, or "mw2".
    ///
    /// # Errors
    /// When HAProxy does not answer.
    pub fn pool_state(&self, server: &str) -> Result<PoolState> {
        let server = format!("jobs/{server}");
        match self.host.run(&[POOL_STATE, &server])? {
            output if output.status == 0 => Ok(PoolState::Pooled),
            output if output.status == 1 => Ok(PoolState::Depooled),
            output if output.stdout.contains("down") => Ok(PoolState::Down),
            output => bail!("pool-state {server}: {output:?}"),
        }
    }

    /// Takes the pool under test out of HAProxy, as somebody other than the agent would.
    ///
    /// # Errors
    /// When HAProxy refuses.
    pub fn depool(&self) -> Result<()> {
        self.host.ok(&[DEPOOL]).map(drop)
    }

    /// Puts the pool under test back.
    ///
    /// # Errors
    /// When HAProxy refuses.
    pub fn repool(&self) -> Result<()> {
        self.host.ok(&[REPOOL]).map(drop)
    }

    /// The host that it runs in.
    pub fn host(&self) -> &'h Host {
        self.host
    }
}

impl fmt::Display for Depool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Depool::Drain => "drain",
            Depool::Maint => "maint",
        })
    }
}
