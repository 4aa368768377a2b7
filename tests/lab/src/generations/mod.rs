//! php-fpm generations behind a web server, with nothing in between that could hide a lost request.
//!
//! ```text
//! load ─► nginx or Apache 127.0.0.1:8090 ─► current.sock ─► BOOT.sock   php-fpm-generation@boot.service
//!                                                      └──► G1.sock     php-fpm-generation@g1.service
//!         nginx           127.0.0.1:8090 ─► 127.0.0.1:9000, one queue ─► php-fpm-generation-tcp@…
//! ```
//! The units and the pool are those that the package ships. PHP does not look at files twice, so a generation answers with its own
//! version for ever. Without an agent a test hands over by [`Generations::start`], [`Generations::switch`] and
//! [`Generations::wait_quiet`], or by [`Generations::hand_over`], which is all of it.

mod config;
mod generation;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{Host, app, load};
pub use generation::Workers;

/// The web server.
pub const ADDRESS: &str = "127.0.0.1:8090";
/// The version that [`Generations::install`] deploys, and that the instance [`BOOT`] runs.
pub const FIRST_VERSION: &str = "v0";
/// The instance that needs no agent.
pub const BOOT: &str = "boot";

/// What stands in front of php-fpm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WebServer {
    /// nginx, a connection for each request, to the symlink.
    Nginx,
    /// Apache with mod_proxy_fcgi, a connection for each request, to the symlink.
    Apache,
    /// Apache with `enablereuse=on`: a connection goes on with the generation that it was made to, until
    /// [`Generations::reload_web_server`].
    ApacheReuse,
    /// nginx, a connection for each request, to the port that a socket unit holds for all generations.
    NginxTcp,
}

/// How the stack is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// php-fpm processes of each generation (`pm = static`), at least 1.
    pub children: u32,
    /// Further lines of the pool, such as "request_terminate_timeout = 60s\n".
    pub pool_directives: String,
}

impl Default for Options {
    /// Enough for [`load::Builder::mixed`].
    fn default() -> Options {
        Options { children: 80, pool_directives: String::new() }
    }
}

/// The stack in a host.
#[derive(Debug, Clone, Copy)]
pub struct Generations<'h> {
    host: &'h Host,
    server: WebServer,
}

impl<'h> Generations<'h> {
    /// Writes all configuration, enables and starts the instance [`BOOT`] and the web server, and returns when a request has been
    /// answered through both. All of it starts by itself after a reboot.
    ///
    /// # Errors
    /// When a part does not start; with what it said.
    pub fn install(host: &'h Host, server: WebServer, options: &Options) -> Result<Generations<'h>> {
        let stack = Generations { host, server };
        let release = host.release();
        for (path, contents) in config::pool(release, server, options) {
            host.write(&path, contents)?;
        }
        let (path, contents) = config::web_server(server, options);
        host.write(path, contents)?;
        host.write(&format!("{}/conf.d/99-lab.ini", release.fpm_etc()), app::PHP_INI)?;
        app::install(host, FIRST_VERSION)?;
        let (name, web) = (server.name(), server.unit());
        let socket = if server == WebServer::NginxTcp { format!("{name}.socket") } else { String::new() };
        // The distribution's own pool is not of this stack. One reload: `systemctl enable` and `disable` of what also has an init script
        // make several each.
        host.sh_ok(&format!(
            "wants=/etc/systemd/system/multi-user.target.wants && rm -f $wants/{fpm} && ln -sf /lib/systemd/system/{web} $wants/ && \
             systemctl --quiet --no-reload enable {socket} {name}@.service && systemctl daemon-reload && systemctl stop {fpm} && \
             systemctl start {socket} {name}@{BOOT}.service && systemctl restart {web} || \
             {{ systemctl status --no-pager {socket} {name}@{BOOT}.service {web}; exit 1; }}",
            fpm = release.fpm_unit(),
        ))?;
        let served = stack.served_version()?;
        if served != FIRST_VERSION {
            bail!("http://{ADDRESS}/version.php: {served}");
        }
        Ok(stack)
    }

    /// Puts a new version of the code in place by rename(2). Every generation goes on with its own version.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn deploy_code(&self, version: &str) -> Result<()> {
        app::deploy(self.host, version)
    }

    /// The version that is served.
    ///
    /// # Errors
    /// When there is no answer with status 200 within 10 s.
    pub fn served_version(&self) -> Result<String> {
        let response = load::get(self.host, ADDRESS, "/version.php", Duration::from_secs(10))
            .with_context(|| format!("{} does not answer", self.server))?;
        if response.status != 200 {
            bail!("version.php: {response:?}");
        }
        Ok(response.body.trim().to_owned())
    }

    /// The template unit, such as "php-fpm-generation@.service".
    pub fn template(&self) -> String {
        format!("{}@.service", self.server.name())
    }

    /// The unit of an instance, such as "php-fpm-generation@boot.service".
    pub fn unit(&self, instance: &str) -> String {
        format!("{}@{instance}.service", self.server.name())
    }

    /// Where the sockets of the generations are, such as "/run/php-fpm-generation".
    pub fn directory(&self) -> String {
        format!("/run/{}", self.server.name())
    }

    /// The symlink that the web server connects to. There is none with [`WebServer::NginxTcp`].
    pub fn socket(&self) -> String {
        format!("{}/current.sock", self.directory())
    }

    /// The agent's section for this pool, `target.job`, with further lines.
    pub fn target(&self, rules: &str) -> String {
        let socket = if self.server == WebServer::NginxTcp { String::new() } else { format!("socket = \"{}\"\n", self.socket()) };
        format!("[target.job]\nkind = \"php-fpm\"\nunit = \"{}\"\nstrategy = \"generations\"\n{socket}{rules}\n", self.template())
    }

    /// The web server in front.
    pub fn server(&self) -> WebServer {
        self.server
    }

    /// The host that it runs in.
    pub fn host(&self) -> &'h Host {
        self.host
    }
}

impl WebServer {
    /// Every one that connects to the symlink, one connection a request.
    pub const PLAIN: [WebServer; 2] = [WebServer::Nginx, WebServer::Apache];

    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            WebServer::Nginx | WebServer::NginxTcp => "nginx.service",
            WebServer::Apache | WebServer::ApacheReuse => "apache2.service",
        }
    }

    /// What the units, the configuration and the directory of its generations are called.
    fn name(self) -> &'static str {
        match self {
            WebServer::NginxTcp => "php-fpm-generation-tcp",
            _ => "php-fpm-generation",
        }
    }
}

/// "nginx", "apache", "apache-reuse" or "nginx-tcp": part of the name of trials and hosts.
impl fmt::Display for WebServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WebServer::Nginx => "nginx",
            WebServer::Apache => "apache",
            WebServer::ApacheReuse => "apache-reuse",
            WebServer::NginxTcp => "nginx-tcp",
        })
    }
}
