//! Connections that somebody has accepted on a pool's socket, as the kernel lists them: what a pool without a status page has in hand.

use std::collections::BTreeMap;
use std::path::Path;

/// The number for each of these sockets, named as in `listen =`; none for one whose list cannot be read.
///
/// Measured (Debian 12, php 8.2): a request in the hands of a worker is one line of /proc/net/unix with the path of the socket and state 03; one
/// that waits to be accepted has state 02 and inode 0. php-fpm closes the connection with the answer; a script that goes on after `fastcgi_finish_request()` has
/// none, so none proves nothing. Needs no privilege, unlike /proc/PID/fd, wchan and syscall.
#[must_use]
pub fn accepted(proc: &Path, sockets: &[String]) -> BTreeMap<String, u32> {
    let read = |name: &str| std::fs::read(proc.join("net").join(name)).ok().map(|text| String::from_utf8_lossy(&text).into_owned());
    let unix = if sockets.iter().any(|socket| socket.starts_with('/')) { read("unix") } else { None };
    let tcp: Vec<String> = if sockets.iter().any(|socket| port(socket).is_some()) {
        ["tcp", "tcp6"].into_iter().filter_map(read).collect()
    } else {
        Vec::new()
    };
    let mut found = BTreeMap::new();
    for socket in sockets {
        let number = match port(socket) {
            Some(port) if !tcp.is_empty() => Some(tcp.iter().map(|table| over_tcp(table, port)).sum()),
            Some(_) => None,
            None => unix.as_deref().map(|table| over_unix(table, socket)),
        };
        if let Some(number) = number {
            found.insert(socket.clone(), number);
        }
    }
    found
}

/// Of `9000`, `127.0.0.1:9000`, `[::1]:9000`.
fn port(socket: &str) -> Option<u16> {
    if socket.starts_with('/') {
        return None;
    }
    socket.rsplit(':').next()?.parse().ok()
}

/// `Num RefCount Protocol Flags Type St Inode Path`; the listening socket has the path too, and flag 0x10000.
fn over_unix(table: &str, path: &str) -> u32 {
    let accepted = |line: &&str| {
        let mut fields = line.split_ascii_whitespace();
        let flags = fields.nth(3).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        let state = fields.nth(1);
        let inode = fields.next();
        // A path may hold spaces: it is what is left.
        let named = inode.and_then(|inode| line.split_once(&format!(" {inode} "))).map(|(_, path)| path);
        flags.is_some_and(|flags| flags & 0x1_0000 == 0) && state == Some("03") && named == Some(path)
    };
    u32::try_from(table.lines().skip(1).filter(accepted).count()).unwrap_or(u32::MAX)
}

/// `sl local_address rem_address st … inode`: established or closed by the other side, and accepted, which gives it an inode.
fn over_tcp(table: &str, port: u16) -> u32 {
    let accepted = |line: &&str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = fields.get(1).and_then(|local| local.rsplit(':').next()).and_then(|hex| u16::from_str_radix(hex, 16).ok());
        let has_inode = fields.get(9).is_some_and(|inode| *inode != "0");
        local == Some(port) && matches!(fields.get(3), Some(&"01" | &"08")) && has_inode
    };
    u32::try_from(table.lines().skip(1).filter(accepted).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIX: &str = "\
Num       RefCount Protocol Flags    Type St Inode Path
00000000b1347929: 00000002 00000000 00010000 0001 01 5593599 /run/php/a.sock
000000008cd18214: 00000003 00000000 00000000 0001 03 5593601 /run/php/a.sock
000000008cd18215: 00000003 00000000 00000000 0001 03 5593602 /run/php/a.sock
000000008cd18216: 00000002 00000000 00000000 0001 02     0 /run/php/a.sock
000000008cd18217: 00000003 00000000 00000000 0001 03 5593603 /run/php/a.sock2
000000008cd18218: 00000003 00000000 00000000 0001 03 5593604
000000008cd18219: 00000003 00000000 00000000 0001 03 5593605 /run/php/a b.sock
";
    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1
   1: 0100007F:2328 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 112 1
   2: 0100007F:2328 0100007F:C351 01 00000000:00000000 00:00000000 00000000     0        0 0 1
   3: 0100007F:C350 0100007F:2328 01 00000000:00000000 00:00000000 00000000     0        0 113 1
   4: 0100007F:2328 0100007F:C352 08 00000000:00000000 00:00000000 00000000     0        0 114 1
";

    #[test]
    fn what_is_accepted_is_counted_and_nothing_else() {
        assert_eq!(over_unix(UNIX, "/run/php/a.sock"), 2);
        assert_eq!(over_unix(UNIX, "/run/php/a b.sock"), 1);
        assert_eq!(over_unix(UNIX, "/run/php/b.sock"), 0);
        assert_eq!(over_tcp(TCP, 9000), 2);
        assert_eq!(over_tcp(TCP, 50000), 1);
        assert_eq!(over_unix("garbage\n\n1 2 3", "/x") + over_tcp("garbage\n\n1 2 3", 1), 0);
    }

    #[test]
    fn a_socket_in_every_spelling() {
        assert_eq!(["9000", "127.0.0.1:9000", "[::1]:9000", "/run/9000", "x"].map(port), [Some(9000), Some(9000), Some(9000), None, None]);
    }

    #[test]
    fn a_connection_in_hand_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let name = path.to_str().unwrap().to_owned();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let count = || accepted(Path::new("/proc"), std::slice::from_ref(&name)).get(&name).copied();
        let _waits = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(count(), Some(0), "nobody has accepted it");
        let in_hand = listener.accept().unwrap();
        assert_eq!(count(), Some(1));
        drop(in_hand);
        assert_eq!(count(), Some(0));
        assert_eq!(accepted(Path::new("/nowhere"), &[name]), BTreeMap::new());
    }
}
