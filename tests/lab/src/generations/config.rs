//! The configuration files of the stack of generations, as text.

use super::{Options, WebServer};
use crate::Release;

/// What the package ships, for php 8.2.
const UNIT: &str = include_str!("../../../../units/php-fpm-generation@.service");
const POOL: &str = include_str!("../../../../units/php-fpm-generation.conf");
const TCP_UNIT: &str = include_str!("../../../../units/php-fpm-generation-tcp@.service");
const TCP_POOL: &str = include_str!("../../../../units/php-fpm-generation-tcp.conf");
const TCP_SOCKET: &str = include_str!("../../../../units/php-fpm-generation-tcp.socket");

/// Path and contents of every file of the pool: the shipped ones, with this release's php and these options.
pub(super) fn pool(release: Release, server: WebServer, options: &Options) -> Vec<(String, String)> {
    let name = server.name();
    let (unit, pool, socket) = match server {
        WebServer::NginxTcp => (TCP_UNIT, TCP_POOL, Some(TCP_SOCKET)),
        _ => (UNIT, POOL, None),
    };
    let of_release = |text: &str| {
        text.replace("php-fpm8.2", &format!("php-fpm{}", release.php())).replace("/etc/php/8.2/", &format!("/etc/php/{}/", release.php()))
    };
    let children = format!("pm.max_children = {}\n", options.children);
    let pool =
        of_release(pool).replace("pm.max_children = 12\n", &children) + "env[GENERATION] = ${GENERATION}\n" + &options.pool_directives;
    let mut files =
        vec![(format!("/etc/systemd/system/{name}@.service"), of_release(unit)), (format!("{}/{name}.conf", release.fpm_etc()), pool)];
    files.extend(socket.map(|socket| (format!("/etc/systemd/system/{name}.socket"), socket.to_owned())));
    files
}

/// Path and contents of the web server's configuration.
pub(super) fn web_server(server: WebServer, options: &Options) -> (&'static str, String) {
    match server {
        WebServer::Nginx => ("/etc/nginx/nginx.conf", nginx("unix:/run/php-fpm-generation/current.sock")),
        WebServer::NginxTcp => ("/etc/nginx/nginx.conf", nginx("127.0.0.1:9000")),
        WebServer::Apache => ("/etc/apache2/apache2.conf", apache("")),
        WebServer::ApacheReuse => ("/etc/apache2/apache2.conf", apache(&reuse(options.children))),
    }
}

/// A request that nginx could not hand to php-fpm, or to which php-fpm gave no answer, is a 502 at once.
fn nginx(pool: &str) -> String {
    format!(
        "\
user www-data;
worker_processes 1;
worker_rlimit_nofile 16384;
pid /run/nginx.pid;
error_log syslog:server=unix:/dev/log,nohostname;

events {{
    worker_connections 16384;
}}

http {{
    access_log off;
    server_tokens off;
    fastcgi_next_upstream off;
    fastcgi_keep_conn off;
    fastcgi_connect_timeout 10s;
    fastcgi_read_timeout 1h;
    fastcgi_send_timeout 1h;
    include fastcgi_params;
    fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
    root /srv/app;

    server {{
        listen {address} backlog=4096;
        location ~ \\.php$ {{
            fastcgi_pass {pool};
        }}
    }}
}}
",
        address = super::ADDRESS,
    )
}

/// Connections stay open when their request is over. One that is held takes a worker of php-fpm, so all processes of Apache together
/// may hold no more than there are, or those who have none wait for ever: one process serves, of those that may finish beside it.
fn reuse(children: u32) -> String {
    format!("StartServers 1\nMaxRequestWorkers 128\n<Proxy \"fcgi://generations/\" enablereuse=on max={children}>\n</Proxy>\n")
}

/// What Apache could not hand to php-fpm, or got no answer to, is a 503 or 502 at once; nothing is sent twice.
fn apache(reuse: &str) -> String {
    format!(
        "\
ServerRoot /etc/apache2
ServerName generations
DefaultRuntimeDir /run/apache2
PidFile /run/apache2/apache2.pid
User www-data
Group www-data
ErrorLog syslog
LogLevel warn
Timeout 3600
ListenBacklog 4096
Listen {address}
KeepAlive Off
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so
ServerLimit 8
ThreadLimit 128
ThreadsPerChild 128
MaxRequestWorkers 1024
{reuse}
DocumentRoot /srv/app
<Directory /srv/app>
    Require all granted
</Directory>
<FilesMatch \"\\.php$\">
    SetHandler \"proxy:unix:/run/php-fpm-generation/current.sock|fcgi://generations/\"
</FilesMatch>
",
        address = super::ADDRESS,
    )
}
