//! The FastCGI wire format, as much of it as one GET without keep-alive needs. Pure.
//!
//! Own code and not the crate `fastcgi-client` 0.12: that one panics on an END_REQUEST shorter than 8 bytes, takes a
//! connection that closes half-way for a complete answer, and has no bound on what it keeps.

const VERSION: u8 = 1;
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
/// One request for each connection.
const REQUEST_ID: u16 = 1;
const RESPONDER: u16 = 1;

/// How much of FCGI_STDERR is kept.
const STDERR_MAX: usize = 4096;

/// The whole of what is written for one request without a body: BEGIN_REQUEST without FCGI_KEEP_CONN (facts 3j), PARAMS, an empty STDIN.
pub(super) fn encode(params: &[(&str, String)]) -> Vec<u8> {
    let mut pairs = Vec::new();
    for (name, value) in params {
        for length in [name.len(), value.len()] {
            match u8::try_from(length) {
                Ok(short) if short < 0x80 => pairs.push(short),
                _ => pairs.extend((u32::try_from(length).unwrap_or(u32::MAX) | 0x8000_0000).to_be_bytes()),
            }
        }
        pairs.extend(name.as_bytes());
        pairs.extend(value.as_bytes());
    }
    let mut wire = Vec::with_capacity(pairs.len() + 64);
    let [role_high, role_low] = RESPONDER.to_be_bytes();
    record(&mut wire, BEGIN_REQUEST, &[role_high, role_low, 0, 0, 0, 0, 0, 0]);
    for chunk in pairs.chunks(0xfff8) {
        record(&mut wire, PARAMS, chunk);
    }
    record(&mut wire, PARAMS, &[]);
    record(&mut wire, STDIN, &[]);
    wire
}

fn record(wire: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let [id_high, id_low] = REQUEST_ID.to_be_bytes();
    let [length_high, length_low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    wire.extend([VERSION, kind, id_high, id_low, length_high, length_low, 0, 0]);
    wire.extend(content);
}

/// What came back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// At most the decoder's `keep` bytes.
    pub stdout: Vec<u8>,
    /// At most 4 KiB.
    pub stderr: Vec<u8>,
}

/// Takes the bytes of one answer as they come, in pieces of any size, and keeps a bounded part of them.
#[derive(Debug)]
pub(super) struct Decoder {
    keep: usize,
    answer: Answer,
    state: State,
    end: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; 8], filled: usize },
    Content { kind: u8, left: usize, padding: usize },
    Complete,
}

impl State {
    const NEXT_RECORD: State = State::Header { bytes: [0; 8], filled: 0 };
}

impl Decoder {
    pub(super) fn new(keep: usize) -> Decoder {
        Decoder { keep, answer: Answer::default(), state: State::NEXT_RECORD, end: Vec::new() }
    }

    /// Returns whether the answer is complete; what comes after its end is ignored.
    ///
    /// # Errors
    /// A sentence, when this is no FastCGI answer or the server refused the request.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<bool, String> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Complete => return Ok(true),
                State::Header { bytes: header, filled } => {
                    let take = bytes.len().min(header.len() - *filled);
                    header[*filled..*filled + take].copy_from_slice(&bytes[..take]);
                    *filled += take;
                    bytes = &bytes[take..];
                    if *filled == header.len() {
                        let header = *header;
                        self.begin(header)?;
                    }
                }
                State::Content { kind, left, padding } => {
                    let take = bytes.len().min(*left);
                    let (kept, max) = match *kind {
                        STDOUT => (&mut self.answer.stdout, self.keep),
                        STDERR => (&mut self.answer.stderr, STDERR_MAX),
                        _ => (&mut self.end, 8),
                    };
                    let room = max.saturating_sub(kept.len());
                    kept.extend(&bytes[..take.min(room)]);
                    *left -= take;
                    let skip = (bytes.len() - take).min(*padding);
                    if *left == 0 {
                        *padding -= skip;
                        bytes = &bytes[take + skip..];
                    } else {
                        bytes = &bytes[take..];
                    }
                    self.finish()?;
                }
            }
        }
        Ok(matches!(self.state, State::Complete))
    }

    /// The answer, whole if [`Decoder::push`] has returned true.
    pub(super) fn into_answer(self) -> Answer {
        self.answer
    }

    fn begin(&mut self, header: [u8; 8]) -> Result<(), String> {
        let [version, kind, id_high, id_low, length_high, length_low, padding, _] = header;
        if version != VERSION || u16::from_be_bytes([id_high, id_low]) != REQUEST_ID || !matches!(kind, STDOUT | STDERR | END_REQUEST) {
            return Err("what answers does not speak FastCGI".to_owned());
        }
        let left = usize::from(u16::from_be_bytes([length_high, length_low]));
        self.state = State::Content { kind, left, padding: usize::from(padding) };
        self.finish()
    }

    /// Goes on to the next record if this one is complete.
    fn finish(&mut self) -> Result<(), String> {
        let State::Content { kind, left: 0, padding } = self.state else { return Ok(()) };
        if kind == END_REQUEST {
            // The padding of the last record need not be waited for.
            let Some(protocol_status) = self.end.get(4) else {
                return Err("what answers does not speak FastCGI: its END_REQUEST is too short".to_owned());
            };
            self.state = State::Complete;
            return match protocol_status {
                0 => Ok(()),
                1 => Err("the server refuses the request: it cannot multiplex".to_owned()),
                2 => Err("the server refuses the request: it is overloaded".to_owned()),
                3 => Err("the server refuses the request: it is no FastCGI responder".to_owned()),
                other => Err(format!("the server refuses the request: protocol status {other}")),
            };
        }
        if padding == 0 {
            self.state = State::NEXT_RECORD;
        }
        Ok(())
    }
}

/// Splits CGI output into the HTTP status (200 if there is no `Status:` line) and the body.
///
/// # Errors
/// A sentence, when there is no end of the header.
pub(super) fn http_head(stdout: &[u8]) -> Result<(u16, &[u8]), String> {
    let mut status = 200;
    let mut rest = stdout;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        if line.is_empty() {
            return Ok((status, rest));
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        if line[..colon].eq_ignore_ascii_case(b"Status") {
            let value = String::from_utf8_lossy(&line[colon + 1..]);
            let code = value.split_whitespace().next().and_then(|word| word.parse().ok());
            status = code.ok_or("the answer has a Status: line without a number")?;
        }
    }
    Err("the answer has no HTTP header".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer_of(records: &[(u8, &[u8], u8)]) -> Vec<u8> {
        let mut wire = Vec::new();
        for (kind, content, padding) in records {
            let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
            wire.extend([1, *kind, 0, 1, high, low, *padding, 0]);
            wire.extend(*content);
            wire.extend(vec![0xee; usize::from(*padding)]);
        }
        wire
    }

    #[test]
    fn a_request_is_begin_params_and_two_empty_records() {
        let wire = encode(&[("A", "b".to_owned()), ("LONG", "x".repeat(200))]);
        assert_eq!(&wire[..16], &[1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&wire[16..24], &[1, 4, 0, 1, 0, 213, 0, 0]);
        assert_eq!(&wire[24..28], &[1, 1, b'A', b'b']);
        assert_eq!(&wire[28..33], &[4, 0x80, 0, 0, 200]);
        assert_eq!(&wire[wire.len() - 16..], &[1, 4, 0, 1, 0, 0, 0, 0, 1, 5, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn params_longer_than_a_record_are_split() {
        let wire = encode(&[("A", "x".repeat(100_000))]);
        assert_eq!(wire.len(), 16 + (8 + 0xfff8) + (8 + 100_006 - 0xfff8) + 16);
    }

    #[test]
    fn an_answer_in_any_pieces_is_the_same() {
        let wire = answer_of(&[(6, b"Status: 201\r\n\r\n", 1), (7, b"warning", 0), (6, b"body", 7), (6, b"", 0), (3, &[0; 8], 3)]);
        for size in 1..wire.len() {
            let mut decoder = Decoder::new(100);
            let mut complete = false;
            for piece in wire.chunks(size) {
                complete = decoder.push(piece).unwrap();
            }
            assert!(complete);
            assert_eq!(decoder.into_answer(), Answer { stdout: b"Status: 201\r\n\r\nbody".to_vec(), stderr: b"warning".to_vec() });
        }
    }

    #[test]
    fn no_more_is_kept_than_asked_for() {
        let mut decoder = Decoder::new(10);
        for _ in 0..1000 {
            assert!(!decoder.push(&answer_of(&[(6, &[b'x'; 5000], 9), (7, &[b'y'; 5000], 0)])).unwrap());
        }
        let answer = decoder.into_answer();
        assert_eq!((answer.stdout.len(), answer.stderr.len()), (10, STDERR_MAX));
    }

    #[test]
    fn what_is_not_fastcgi_is_an_error() {
        assert!(Decoder::new(10).push(b"HTTP/1.1 400 Bad Request\r\n").is_err());
        assert!(Decoder::new(10).push(&[1, 6, 0, 2, 0, 0, 0, 0]).is_err(), "another request's answer");
        assert!(Decoder::new(10).push(&answer_of(&[(3, &[0; 3], 0)])).is_err(), "a short END_REQUEST");
        let overloaded = Decoder::new(10).push(&answer_of(&[(3, &[0, 0, 0, 0, 2, 0, 0, 0], 0)]));
        assert_eq!(overloaded, Err("the server refuses the request: it is overloaded".to_owned()));
    }

    #[test]
    fn the_head_of_an_answer() {
        assert_eq!(http_head(b"Content-type: a\r\nstatus:  404 Not Found\r\n\r\nx\n\ny"), Ok((404, &b"x\n\ny"[..])));
        assert_eq!(http_head(b"A: b\n\nbody"), Ok((200, &b"body"[..])));
        assert_eq!(http_head(b"\r\n"), Ok((200, &b""[..])));
        assert!(http_head(b"A: b\r\n").is_err());
        assert!(http_head(b"Status: 99999\r\n\r\n").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_stay_bounded(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..20)) {
            let mut decoder = Decoder::new(64);
            for piece in &pieces {
                if decoder.push(piece).is_err() {
                    break;
                }
            }
            let answer = decoder.into_answer();
            prop_assert!(answer.stdout.len() <= 64 && answer.stderr.len() <= STDERR_MAX);
            let _ = http_head(&pieces.concat());
        }

        #[test]
        fn arbitrary_records_never_panic(records in proptest::collection::vec((prop_oneof![Just(6u8), Just(7), Just(3), any::<u8>()], proptest::collection::vec(any::<u8>(), 0..40), any::<u8>()), 0..20), size in 1usize..50) {
            let records: Vec<(u8, &[u8], u8)> = records.iter().map(|(kind, content, padding)| (*kind, content.as_slice(), *padding)).collect();
            let wire = answer_of(&records);
            let mut decoder = Decoder::new(16);
            for piece in wire.chunks(size) {
                if decoder.push(piece).is_err() {
                    break;
                }
            }
            prop_assert!(decoder.into_answer().stdout.len() <= 16);
        }
    }
}
