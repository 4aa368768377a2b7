//! One request of `/work.php` and the answer that is right for it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::{Class, PATIENCE, Served, http};

/// The child of a request writes a line this often.
const LINE: Duration = Duration::from_millis(500);

/// What a request is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) id: u64,
    pub(super) wanted: Duration,
    /// Whether a child process works with it.
    pub(super) child: bool,
}

#[derive(Deserialize)]
struct Answer {
    id: String,
    child: Option<Child>,
    #[serde(flatten)]
    served: Served,
}

/// What the child process of a request wrote, and its exit status.
#[derive(Deserialize)]
struct Child {
    output: String,
    status: i32,
}

impl Work {
    /// Sends it and waits for the answer: who served it, or what is wrong. What is refused may prove to be cut.
    pub(super) fn ask(self, address: SocketAddr) -> Result<Served, (Class, String)> {
        let refused = |error: String| (Class::Refused, error);
        let response = http::request(address, &self.path(), self.wanted + PATIENCE).map_err(|error| refused(format!("{error:#}")))?;
        if response.status != 200 {
            return Err(refused(format!("status {}", response.status)));
        }
        self.judge(&response.body).map_err(|error| (Class::Wrong, error))
    }

    fn path(self) -> String {
        let path = format!("/work.php?id={}&ms={}", self.id, self.wanted.as_millis());
        if self.child { format!("{path}&child={}", self.lines()) } else { path }
    }

    fn lines(self) -> u128 {
        (self.wanted.as_millis() / LINE.as_millis()).max(2)
    }

    /// The body of an answer with status 200.
    fn judge(self, body: &str) -> Result<Served, String> {
        let answer = serde_json::from_str::<Answer>(body).map_err(|error| format!("{error}: {body}"))?;
        if answer.id != self.id.to_string() {
            return Err(format!("the answer is to request {}", answer.id));
        }
        let whole: String = (1..=self.lines()).map(|line| format!("{} {line}\n", self.id)).collect();
        match answer.child {
            None if !self.child => Ok(answer.served),
            Some(child) if self.child && child.status == 0 && child.output == whole => Ok(answer.served),
            Some(child) => {
                Err(format!("its child exited {} after {} of {} lines", child.status, child.output.lines().count(), self.lines()))
            }
            None => Err("it had no child".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: &str = r#""server": "mw1", "generation": "1@2", "instance": null, "version": "v0""#;

    #[test]
    fn only_the_whole_answer_to_this_request_is_right() {
        let work = Work { id: 7, wanted: Duration::from_millis(15), child: false };
        assert_eq!(work.path(), "/work.php?id=7&ms=15");
        assert_eq!(work.judge(&format!(r#"{{"id": "7", {BY}, "child": null}}"#)).unwrap().version, "v0");
        for wrong in [format!(r#"{{"id": "8", {BY}, "child": null}}"#), "ok".to_owned(), "{}".to_owned()] {
            assert!(work.judge(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_child_that_was_cut_is_seen() {
        let work = Work { id: 7, wanted: Duration::from_millis(1500), child: true };
        assert_eq!(work.path(), "/work.php?id=7&ms=1500&child=3");
        let answer = |output: &str, status: i32| {
            work.judge(&format!(r#"{{"id": "7", {BY}, "child": {{"output": "{output}", "status": {status}}}}}"#))
        };
        assert!(answer(r"7 1\n7 2\n7 3\n", 0).is_ok());
        assert_eq!(answer(r"7 1\n7 2\n", 0).unwrap_err(), "its child exited 0 after 2 of 3 lines");
        assert!(answer(r"7 1\n7 2\n7 3\n", -1).is_err());
        assert!(answer(r"7 1\n7 2\n8 3\n", 0).is_err());
        assert!(work.judge(&format!(r#"{{"id": "7", {BY}, "child": null}}"#)).is_err());
    }
}
