//! Where text goes: the two streams, what is known of the terminal, and the clock and time zone of the reader.

use std::io::{IsTerminal, Write};

use jiff::tz::TimeZone;

use super::exit::Exit;
use super::phrase::quoted;
use crate::core::time::Wall;

/// What rendering depends on beside the view.
#[derive(Debug, Clone)]
pub struct Page {
    pub now: Wall,
    pub zone: TimeZone,
    /// Columns of the terminal; `None`: no terminal, lines are as long as they are.
    pub width: Option<u16>,
}

/// The streams of this process.
#[derive(Debug)]
pub struct Output {
    pub terminal: bool,
    /// The arguments, as they were typed.
    pub typed: Vec<String>,
    /// In a test: what was written, standard error with a `! ` before each line.
    #[cfg(test)]
    pub kept: Option<std::cell::RefCell<String>>,
}

impl Output {
    pub fn of_process() -> Output {
        Output {
            terminal: std::io::stdout().is_terminal(),
            typed: std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect(),
            #[cfg(test)]
            kept: None,
        }
    }

    pub fn page(&self) -> Page {
        let width = self.terminal.then(terminal_size::terminal_size).flatten().map(|(width, _)| width.0);
        Page { now: now(), zone: zone(), width }
    }

    /// Writes to standard output. A reader that went away (`| head`) is no error.
    pub fn say(&self, text: &str) {
        self.write("", text);
    }

    /// Writes from the terminal's first line on, over what is there.
    pub fn redraw(&self, text: &str) {
        self.write("\x1b[H\x1b[J", text);
    }

    fn write(&self, control: &str, text: &str) {
        let mut bytes = control.to_owned() + &safe(text);
        if !bytes.ends_with('\n') {
            bytes.push('\n');
        }
        #[cfg(test)]
        if let Some(kept) = &self.kept {
            kept.borrow_mut().push_str(&bytes);
            return;
        }
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(bytes.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            // Also `--watch` has nobody to watch for then.
            std::process::exit(0);
        }
    }

    /// Writes to standard error.
    pub fn complain(&self, text: &str) {
        #[cfg(test)]
        if let Some(kept) = &self.kept {
            kept.borrow_mut().push_str(&safe(text.trim_end()).lines().map(|line| format!("! {line}\n")).collect::<String>());
            return;
        }
        let _ = writeln!(std::io::stderr().lock(), "{}", safe(text.trim_end()));
    }

    /// Says what went wrong, and ends with `exit`.
    pub fn fail(&self, exit: Exit, text: &str) -> Exit {
        self.complain(&format!("restart-agent: {text}"));
        exit
    }

    /// Writes a value as JSON for a machine, and for a person who looks over its shoulder.
    pub fn json(&self, value: &impl serde::Serialize) -> Exit {
        match serde_json::to_string_pretty(value) {
            Ok(text) => {
                self.say(&text);
                Exit::Done
            }
            Err(error) => self.fail(Exit::Failed, &format!("cannot write this as JSON: {error}")),
        }
    }

    /// Says that this needs root, with the line to type: the one that was typed.
    pub fn needs_root(&self) -> Exit {
        let words: Vec<String> = self.typed.iter().map(|word| quoted(word)).collect();
        self.fail(Exit::NeedsRoot, &format!("this needs root: sudo restart-agent {}", words.join(" ")))
    }
}

/// The reader's time zone. jiff finds a named one by listing all of /usr/share/zoneinfo, which takes longer than the rest of
/// `status`: so TZ is read here, and jiff reads /etc/localtime.
fn zone() -> TimeZone {
    let named = std::env::var("TZ").ok().and_then(|name| {
        let name = name.trim_start_matches(':');
        let file = std::path::Path::new("/usr/share/zoneinfo").join(name);
        if name.is_empty() || !file.is_file() { TimeZone::posix(name).ok() } else { TimeZone::tzif(name, &std::fs::read(file).ok()?).ok() }
    });
    named.unwrap_or_else(TimeZone::system)
}

/// Names and reasons come from outside: none of them may steer the terminal.
fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// The wall clock.
pub fn now() -> Wall {
    Wall(jiff::Timestamp::now().as_microsecond())
}
