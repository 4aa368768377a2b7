//! php-fpm from outside: its status, ping and scripts over FastCGI, and its configuration as `php-fpm -tt` prints it.
//!
//! Every wire format is a pure function beside the socket that feeds it. Nothing in here decides: no answer, a late answer
//! and an unreadable answer all end as an error text, never as "idle" (law 5).

pub mod cache;
pub mod connections;
mod exchange;
mod fastcgi;
pub mod invocation;
pub mod layout;
mod opcache;
pub mod status;
pub mod symlink;

use std::time::Duration;

use futures_util::future::join_all;

use crate::core::deploy::printable;
use crate::core::effect::{FpmRequest, StatusAsk};
use crate::core::seen::{OpcacheSeen, PoolAnswers, PoolStatus};

use exchange::{Limits, exchange};
use fastcgi::http_head;

/// A full status takes about 250 bytes for each worker, 750 with long query strings (facts 3g, 3h).
const STATUS_LIMITS: Limits = Limits { keep: 1 << 20, total: 1 << 20 };
/// What a script says beyond `keep` is read and dropped: closing the connection would abort the script.
const SCRIPT_LIMITS: Limits = Limits { keep: BODY_MAX + HEAD_MAX, total: 64 << 20 };
const PING_LIMITS: Limits = Limits { keep: BODY_MAX + HEAD_MAX, total: (BODY_MAX + HEAD_MAX) as u64 };
const BODY_MAX: usize = 64 << 10;
const HEAD_MAX: usize = 16 << 10;

/// Asks all pools at once; `timeout` holds for each from connect to the last byte, so also for the whole.
///
/// The answer has one entry for each pool asked. Over the main socket the asking worker counts as active (facts 3c), and a
/// pool with all workers busy does not answer in time (facts 3d).
pub async fn ask_pools(asks: &[StatusAsk], full: bool, timeout: Duration) -> PoolAnswers {
    let answers = join_all(asks.iter().map(|ask| ask_pool(ask, full, timeout))).await;
    asks.iter().map(|ask| ask.pool.clone()).zip(answers).collect()
}

async fn ask_pool(ask: &StatusAsk, full: bool, timeout: Duration) -> Result<PoolStatus, String> {
    let query = if full { "json&full" } else { "json" };
    let answer = exchange(&ask.socket, &params(&ask.path, query), STATUS_LIMITS, timeout).await?;
    let (code, body) = http_head(&answer.stdout).map_err(|error| format!("{}: {error}", ask.socket))?;
    match code {
        200 => status::parse(body, full).map_err(|error| format!("{}{}: {error}", ask.socket, ask.path)),
        403 | 404 => Err(format!("{} answers {code}: {} is not its pm.status_path", ask.socket, ask.path)),
        _ => Err(format!("{} answers {code} for {}: {}", ask.socket, ask.path, printable(String::from_utf8_lossy(body).trim(), 200))),
    }
}

/// One request; `timeout` holds from connect to the last byte.
///
/// Gives the HTTP status and at most the first 64 KiB of the body, lossy UTF-8. If PHP failed (status 500 or more) without a
/// body, the body is what php-fpm wrote to FCGI_STDERR. A missing script is status 404, not an error.
///
/// # Errors
/// A sentence, when there is no complete answer.
pub async fn request(socket: &str, request: &FpmRequest, timeout: Duration) -> Result<(u16, String), String> {
    let (params, limits) = match request {
        FpmRequest::Ping { path } => (params(path, ""), PING_LIMITS),
        FpmRequest::Script { script } => {
            let (file, query) = script.split_once('?').unwrap_or((script, ""));
            (params(file, query), SCRIPT_LIMITS)
        }
    };
    let answer = exchange(socket, &params, limits, timeout).await?;
    let (code, mut body) = http_head(&answer.stdout).map_err(|error| format!("{socket}: {error}"))?;
    if code >= 500 && body.is_empty() {
        body = &answer.stderr;
    }
    Ok((code, String::from_utf8_lossy(&body[..body.len().min(BODY_MAX)]).into_owned()))
}

/// Asks for the opcache by the package's script; `timeout` holds from connect to the last byte.
///
/// # Errors
/// A sentence, when there is no answer or no opcache: then nothing is known of it.
pub async fn ask_opcache(socket: &str, timeout: Duration) -> Result<OpcacheSeen, String> {
    let mut params = params(opcache::SCRIPT, "");
    params.push((opcache::MARK.0, opcache::MARK.1.to_owned()));
    let answer = exchange(socket, &params, PING_LIMITS, timeout).await?;
    let (code, body) = http_head(&answer.stdout).map_err(|error| format!("{socket}: {error}"))?;
    match code {
        200 => opcache::parse(body),
        403 | 404 => Err(format!("{socket} answers {code}: its pool cannot run {} (chroot, open_basedir?)", opcache::SCRIPT)),
        _ => Err(format!("{socket} answers {code} for {}", opcache::SCRIPT)),
    }
}

/// php-fpm compares SCRIPT_NAME with `pm.status_path` and `ping.path`, and runs SCRIPT_FILENAME otherwise.
fn params(file: &str, query: &str) -> Vec<(&'static str, String)> {
    let uri = if query.is_empty() { file.to_owned() } else { format!("{file}?{query}") };
    vec![
        ("SCRIPT_FILENAME", file.to_owned()),
        ("SCRIPT_NAME", file.to_owned()),
        ("QUERY_STRING", query.to_owned()),
        ("REQUEST_URI", uri),
        ("REQUEST_METHOD", "GET".to_owned()),
        ("GATEWAY_INTERFACE", "CGI/1.1".to_owned()),
        ("SERVER_PROTOCOL", "HTTP/1.1".to_owned()),
        ("SERVER_NAME", "localhost".to_owned()),
        ("SERVER_PORT", "80".to_owned()),
        ("REMOTE_ADDR", "127.0.0.1".to_owned()),
        ("HTTP_HOST", "localhost".to_owned()),
        ("HTTP_USER_AGENT", "restart-agent".to_owned()),
    ]
}

#[cfg(test)]
mod tests;
