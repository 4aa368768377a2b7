//! A plain HTTP client: one request per connection, every failure told apart.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Host;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer to an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code, such as 200.
    pub status: u16,
    /// The body; what is not UTF-8 is replaced.
    pub body: String,
}

/// Sends one GET request from inside the host's network, such as `get(host, "127.0.0.1:8081", "/version.php", …)`.
///
/// # Errors
/// When no complete answer arrives within `timeout`.
pub fn get(host: &Host, address: &str, path: &str, timeout: Duration) -> Result<Response> {
    let network = host.network()?;
    thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(&network)?;
                request(address.parse()?, path, timeout)
            })
            .join()
            .map_err(|_| anyhow!("the requesting thread panicked"))?
    })
}

/// Moves this thread, and those that it starts, into a network namespace.
pub(super) fn enter(network: &std::fs::File) -> Result<()> {
    use std::os::fd::AsFd;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).context("cannot enter the host's network")
}

/// One GET request on a connection of its own, in this thread's network.
pub(super) fn request(address: SocketAddr, path: &str, timeout: Duration) -> Result<Response> {
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT.min(timeout)).context("connect")?;
    stream.set_nodelay(true)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").context("send")?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no complete answer within {:.1}s", timeout.as_secs_f64());
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk).context("receive")? {
            0 => return parse(&bytes),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

/// A whole answer, whose connection was closed after it.
fn parse(bytes: &[u8]) -> Result<Response> {
    ensure!(!bytes.is_empty(), "closed without an answer");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("cut within the headers")?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let body = &bytes[end + 4..];
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    for line in head.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") && value.trim().parse() != Ok(body.len()) {
            bail!("status {status}, then cut after {} of{value} bytes", body.len());
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok(Response { status, body: unchunk(body).context("cut within a chunk")? });
        }
    }
    Ok(Response { status, body: String::from_utf8_lossy(body).into_owned() })
}

fn unchunk(mut body: &[u8]) -> Option<String> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(str::from_utf8(&body[..end]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(String::from_utf8_lossy(&whole).into_owned());
        }
        whole.extend_from_slice(body.get(end + 2..end + 2 + size)?);
        body = body.get(end + 2 + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_and_cut_answers_are_told_apart() {
        let whole = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        assert_eq!(whole, Response { status: 200, body: "ok".into() });
        let chunked = parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").unwrap();
        assert_eq!(chunked, whole);
        for cut in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nContent-",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        ] {
            assert!(parse(cut).is_err());
        }
    }
}
