//! One FastCGI request over one connection, within one deadline.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::core::time::Span;

use super::fastcgi::{Answer, Decoder, encode};

/// What an answer may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of stdout that are kept.
    pub keep: usize,
    /// Bytes read from the socket; more is an error.
    pub total: u64,
}

/// Connects, writes, reads to the end of the request.
///
/// # Errors
/// A sentence that names the socket: nobody there, a full queue, no FastCGI, an answer that is cut short, too long, or not
/// complete within `timeout`.
pub(super) async fn exchange(socket: &str, params: &[(&str, String)], limits: Limits, timeout: Duration) -> Result<Answer, String> {
    match tokio::time::timeout(timeout, connect_and_talk(socket, params, limits)).await {
        Ok(answer) => answer.map_err(|error| format!("{socket}: {error}")),
        Err(_) => Err(format!("{socket}: no complete answer within {}", Span(timeout))),
    }
}

async fn connect_and_talk(socket: &str, params: &[(&str, String)], limits: Limits) -> Result<Answer, String> {
    let request = encode(params);
    match Address::parse(socket)? {
        Address::Unix(path) => talk(UnixStream::connect(path).await.map_err(no_connection)?, &request, limits).await,
        Address::Ip(addresses) => talk(TcpStream::connect(&addresses[..]).await.map_err(no_connection)?, &request, limits).await,
        Address::Name(name) => talk(TcpStream::connect(name).await.map_err(no_connection)?, &request, limits).await,
    }
}

fn no_connection(error: std::io::Error) -> String {
    match error.kind() {
        // A unix socket whose listen queue is full says EAGAIN at once instead of making us wait.
        std::io::ErrorKind::WouldBlock => "cannot connect: its listen queue is full".to_owned(),
        _ => format!("cannot connect: {error}"),
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &[u8], limits: Limits) -> Result<Answer, String> {
    stream.write_all(request).await.map_err(|error| format!("cannot write the request: {error}"))?;
    let mut decoder = Decoder::new(limits.keep);
    let mut total: u64 = 0;
    let mut chunk = vec![0; 16 << 10];
    loop {
        let got = stream.read(&mut chunk).await.map_err(|error| format!("cannot read the answer: {error}"))?;
        if got == 0 {
            return Err("it closed the connection before its answer was complete".to_owned());
        }
        total += got as u64;
        if decoder.push(&chunk[..got])? {
            return Ok(decoder.into_answer());
        }
        if total > limits.total {
            return Err(format!("its answer is longer than {} KiB", limits.total >> 10));
        }
    }
}

/// Where a pool listens, as php-fpm writes it.
#[derive(Debug, PartialEq, Eq)]
enum Address<'a> {
    Unix(&'a str),
    Ip(Vec<SocketAddr>),
    /// `name:port`, looked up by the system's resolver in a thread of its own.
    Name(&'a str),
}

impl Address<'_> {
    /// Addresses that mean "every interface" are asked on the loopback.
    fn parse(socket: &str) -> Result<Address<'_>, String> {
        const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let loopback = |port| Ok(Address::Ip(LOOPBACK.iter().map(|ip| SocketAddr::new(*ip, port)).collect()));
        if socket.starts_with('/') {
            return Ok(Address::Unix(socket));
        }
        if let Ok(port) = socket.parse() {
            return loopback(port);
        }
        if let Ok(mut address) = socket.parse::<SocketAddr>() {
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(LOOPBACK[0]),
                IpAddr::V6(ip) if ip.is_unspecified() => return loopback(address.port()),
                _ => {}
            }
            return Ok(Address::Ip(vec![address]));
        }
        match socket.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some(("*" | "localhost", Ok(port))) => loopback(port),
            Some((host, Ok(_))) if !host.is_empty() && !host.contains(':') => Ok(Address::Name(socket)),
            _ => Err("this is no socket: write an absolute path, host:port, or a port".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_php_fpm_writes_them() {
        let ip = |texts: &[&str]| Ok(Address::Ip(texts.iter().map(|text| text.parse().unwrap()).collect()));
        assert_eq!(Address::parse("/run/php/a.sock"), Ok(Address::Unix("/run/php/a.sock")));
        assert_eq!(Address::parse("127.0.0.1:9000"), ip(&["127.0.0.1:9000"]));
        assert_eq!(Address::parse("[fe80::1]:9000"), ip(&["[fe80::1]:9000"]));
        assert_eq!(Address::parse("0.0.0.0:9000"), ip(&["127.0.0.1:9000"]));
        for both in ["9000", "[::]:9000", "*:9000", "localhost:9000"] {
            assert_eq!(Address::parse(both), ip(&["127.0.0.1:9000", "[::1]:9000"]), "{both}");
        }
        assert_eq!(Address::parse("db1.example:9000"), Ok(Address::Name("db1.example:9000")));
        for wrong in ["", "run/a.sock", "90000", ":9000", "::1:9000", "host:", "host:x"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
