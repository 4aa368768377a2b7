//! Waiting for a state, with a deadline.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Calls `look` until it returns `Ok(Some(value))`, and returns that value.
///
/// `Ok(None)` means "not yet". An `Err` also means "not yet", and its text is remembered: so `look` says
/// what it saw by returning an error such as `bail!("state is {state}")`. Between two looks it pauses
/// 2 ms at first and 50 ms at most; it looks at least once, and once more at the deadline.
///
/// # Errors
/// When `deadline` has passed: says what was waited for, how long, and the last thing seen.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut looks = 0u32;
    let mut last_seen = None;
    loop {
        let last_look = start.elapsed() >= deadline;
        looks += 1;
        match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last_seen = Some(error),
        }
        if last_look {
            break;
        }
        thread::sleep(pause.min(deadline.saturating_sub(start.elapsed())));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let mut message = format!("waited {:.1}s for {what} in vain ({looks} looks)", start.elapsed().as_secs_f64());
    match last_seen {
        Some(error) => write!(message, "; last seen: {error:#}")?,
        None => message.push_str("; nothing seen"),
    }
    bail!(message)
}
