//! The configuration files of the web stack, as text.

use super::{ADMIN_SOCKET, Options, Status};
use crate::Release;

const OTHER_SOCKET: &str = "/run/php-other/php-fpm.sock";

/// A request that nginx could not hand to php-fpm, or to which php-fpm gave no answer, is a 502 at once.
pub(super) fn nginx(release: Release, options: &Options) -> String {
    let pool = release.fpm_socket();
    let status = match options.status {
        Status::Socket => format!("location = /fpm-status {{ fastcgi_pass unix:{}; }}", status_socket(release)),
        Status::Path => format!("location = /fpm-status {{ fastcgi_pass unix:{pool}; }}"),
        Status::None => String::new(),
    };
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
        listen 127.0.0.1:8081 backlog=4096;
        location = /health {{ return 200 ok; }}
        {status}
        location ~ \\.php$ {{
            fastcgi_pass unix:{pool};
        }}
    }}

    server {{
        listen 127.0.0.1:8082 backlog=4096;
        location = /health {{ return 200 ok; }}
        location ~ \\.php$ {{
            fastcgi_pass unix:{OTHER_SOCKET};
        }}
    }}
}}
"
    )
}

/// Only a failed connection is tried again: a request that was sent once is never sent twice.
pub(super) fn haproxy() -> String {
    format!(
        "\
global
    log /dev/log local0
    user haproxy
    group haproxy
    stats socket {ADMIN_SOCKET} mode 660 level admin
    stats timeout 1h

defaults
    mode http
    log global
    timeout connect 5s
    timeout check 5s
    timeout client 1h
    timeout server 1h
    retries 2
    retry-on conn-failure
    option redispatch

frontend web
    bind 127.0.0.1:8080 backlog 4096
    default_backend jobs

backend jobs
    balance roundrobin
    option httpchk GET /health
    http-check expect status 200
    server mw1 127.0.0.1:8081 check inter 1s
    server mw2 127.0.0.1:8082 check inter 1s
"
    )
}

/// The distribution's `www` pool, under test.
pub(super) fn pool(release: Release, options: &Options) -> String {
    let mut text = pool_of("www-data", release.fpm_socket(), options.children);
    if options.status != Status::None {
        text.push_str("pm.status_path = /fpm-status\n");
    }
    if options.status == Status::Socket {
        text.push_str(&format!("pm.status_listen = {}\n", status_socket(release)));
    }
    if options.ping {
        text.push_str("ping.path = /fpm-ping\n");
    }
    text.push_str(&options.pool_directives);
    text.push('\n');
    text
}

pub(super) fn other_fpm(options: &Options) -> String {
    format!("[global]\nerror_log = syslog\ndaemonize = no\n\n{}", pool_of("www-data", OTHER_SOCKET, options.children))
}

pub(super) fn other_unit(release: Release) -> String {
    format!(
        "\
[Unit]
Description=PHP FastCGI process manager that stands for another host

[Service]
Type=notify
RuntimeDirectory=php-other
ExecStart={} --nodaemonize --fpm-config /etc/php-other/php-fpm.conf
KillMode=mixed
",
        release.fpm_binary()
    )
}

fn status_socket(release: Release) -> String {
    format!("/run/php/php{}-fpm-status.sock", release.php())
}

fn pool_of(user: &str, socket: &str, children: u32) -> String {
    format!(
        "\
[www]
user = {user}
group = {user}
listen = {socket}
listen.owner = {user}
listen.group = {user}
pm = static
pm.max_children = {children}
"
    )
}
