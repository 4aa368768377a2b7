//! What the host is owed, for whoever finds the agent stopped.

use crate::core::machine::Machine;

impl Machine {
    /// A sentence for each kind of thing that nobody gives back while the agent does not run.
    pub(super) fn owed(&self) -> Vec<String> {
        let memory = &self.memory;
        let names = |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>().join(", ");
        let pools = names(&mut memory.depooled.keys());
        let quiet = names(&mut memory.quiet.keys());
        // What is kept from being started is lent that.
        let lent = names(&mut memory.lent.iter().filter(|unit| !memory.quiet.contains_key(*unit)));
        let runs = names(&mut memory.reruns.iter().filter(|(_, owed)| owed.is_owed_now()).map(|(unit, _)| unit));
        let down = names(&mut memory.taken_down.values().flatten().map(|dependent| &dependent.unit));
        let mut owed: Vec<String> = [
            (pools, "this host is out of pool"),
            (quiet, "kept from being started:"),
            (lent, "with a drop-in of this agent:"),
            (runs, "to be started again:"),
            (down, "to be started again, since it went down with another:"),
            (names(&mut memory.asked.iter()), "asked to stop:"),
        ]
        .into_iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, what)| format!("{what} {names}"))
        .collect();
        if memory.starts_held {
            owed.push("the starts of scripts are held back".to_owned());
        }
        if !memory.frozen.is_empty() {
            let pids: Vec<String> = memory.frozen.iter().map(|worker| worker.pid.to_string()).collect();
            owed.push(format!("stopped by SIGSTOP: pid {}", pids.join(", ")));
        }
        owed
    }
}
