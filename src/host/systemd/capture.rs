//! What a hook prints: read as it comes, so that it never waits for us, and kept within bounds, so that we never drown in it.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use tokio::net::unix::pipe::Receiver;

/// Of the end of what is printed, for the last line.
const TAIL: usize = 4096;
/// A pipe holds no more than this when the hook has ended.
const IN_THE_PIPE: usize = 64 * 1024;
/// The last line, in characters.
const SAID: usize = 300;

/// The reading end of a hook's output.
#[derive(Debug)]
pub(super) struct Capture {
    pipe: Receiver,
    head: Vec<u8>,
    limit: usize,
    tail: Vec<u8>,
    is_open: bool,
}

impl Capture {
    /// A pipe, of whose output the first `limit` bytes are kept, and the end that the hook is to write to.
    pub(super) fn new(limit: usize) -> io::Result<(Capture, OwnedFd)> {
        let (reading, writing) = io::pipe()?;
        let pipe = Receiver::from_owned_fd(reading.into())?;
        Ok((Capture { pipe, head: Vec::new(), limit, tail: Vec::new(), is_open: true }, writing.into()))
    }

    /// Takes in what comes; returns never. Safe to cancel.
    pub(super) async fn read(&mut self) -> std::convert::Infallible {
        while self.is_open {
            match self.pipe.readable().await {
                Ok(()) => drop(self.take()),
                Err(_) => self.is_open = false,
            }
        }
        std::future::pending().await
    }

    /// Takes in what is there when the hook has ended. A process that it left behind may write on: that is not waited for.
    pub(super) fn finish(&mut self) {
        let mut taken = 0;
        while taken < IN_THE_PIPE
            && let Some(count) = self.take()
        {
            taken += count;
        }
    }

    /// One read; `None` if there is nothing to read now.
    fn take(&mut self) -> Option<usize> {
        let mut buffer = [0; 16 * 1024];
        match self.pipe.try_read(&mut buffer) {
            Ok(0) => {
                self.is_open = false;
                None
            }
            Ok(count) => {
                self.keep(&buffer[..count]);
                Some(count)
            }
            Err(error) => {
                self.is_open &= matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
                None
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.limit.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
    }

    /// The last line that is not empty.
    pub(super) fn said(&self) -> String {
        last_line(&self.tail)
    }

    pub(super) fn into_output(self) -> Vec<u8> {
        self.head
    }
}

/// The last line that is not empty, made printable: at most 300 characters, without control characters.
fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_printable_and_short() {
        assert_eq!(last_line(b"one\ntwo\r\n\n  \n"), "two");
        assert_eq!(last_line(b""), "");
        assert_eq!(last_line(b"a\x1b[31mred\x07"), "a [31mred ");
        assert_eq!(last_line(&[b'x'; 4000]).len(), 300);
        assert_eq!(last_line(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    #[tokio::test]
    async fn it_keeps_the_head_and_the_last_line() {
        let (mut capture, _writing) = Capture::new(10).unwrap();
        for _ in 0..1000 {
            capture.keep(b"0123456789\n");
        }
        capture.keep(b"the end\n");
        assert_eq!(capture.said(), "the end");
        assert!(capture.tail.len() <= TAIL);
        assert_eq!(capture.into_output(), b"0123456789");
    }
}
