//! The judge of timelines, judged: a good one passes, and each thing that can go wrong is seen.

use anyhow::{Result, ensure};
use lab::ledger::Ledger;

use crate::judge::Seen;
use crate::units::After;

/// Slots at 10, 30, 50, 70; one rollout from 32 to 40.
fn seen(after: After, ledger: &str) -> Result<Seen> {
    let ledger: String = ledger.lines().map(|line| line.trim().replacen(' ', " job ", 1) + "\n").collect();
    Ok(Seen {
        name: "job".to_owned(),
        after,
        spared: false,
        on_failure: true,
        on_success: false,
        slots: vec![10.0, 30.0, 50.0, 70.0],
        runs: Ledger::parse(&ledger)?.runs("job").to_vec(),
        casualties: Vec::new(),
        renewed: Vec::new(),
        rollouts: vec![(32.0, 40.0)],
        failures: 0,
        successes: 0,
        later: (0, 0),
        from: 0.0,
        until: 60.0,
    })
}

const BY_ITSELF: &str = "10.1 a start\n10.2 a end 0\n10.2 a stopped success exited 0\n";
const CUT: &str = "30.1 b start\n35.0 b stopped success killed TERM\n";
const SCHEDULED: &str = "50.1 c start\n51.0 c end 0\n51.0 c stopped success exited 0\n";
const AGAIN: &str = "38.0 d start\n45.0 d end 0\n45.0 d stopped success exited 0\n";

pub fn the_judge_sees_what_is_wrong() -> Result<()> {
    let runs = |parts: &[&str]| parts.concat();
    let quiet = seen(After::UntilNext, &runs(&[BY_ITSELF, CUT, SCHEDULED]))?;
    let quiet = Seen { casualties: vec![(35.5, true)], ..quiet };
    let rerun = seen(After::Rerun, &runs(&[BY_ITSELF, CUT, AGAIN, SCHEDULED]))?;
    let rerun = Seen { casualties: vec![(35.5, true)], renewed: vec![(32.0, 40.0)], ..rerun };
    // A long run over two slots: the first of them starts the next run when it ends (facts F2.2).
    let passed = "10.1 a start\n55.0 a end 0\n55.0 a stopped success exited 0\n55.1 b start\n";
    // Kept quiet from 35 on; the slot at 37 is made up for.
    let late = Seen { slots: vec![10.0, 30.0, 37.0], ..seen(After::UntilNext, &runs(&[BY_ITSELF, CUT, "40.2 e start\n"]))? };
    let late = Seen { casualties: vec![(35.5, true)], ..late };
    // The slot at 41 came first; what makes up for the one at 37 begins right after that.
    let crossed = "41.1 e start\n42.0 e end 0\n42.0 e stopped success exited 0\n42.3 f start\n";
    let crossed = Seen { slots: vec![10.0, 30.0, 37.0, 41.0], ..seen(After::UntilNext, &runs(&[BY_ITSELF, CUT, crossed]))? };
    let crossed = Seen { casualties: vec![(35.5, true)], ..crossed };
    for good in [&quiet, &rerun, &seen(After::Auto, passed)?, &late, &crossed] {
        ensure!(good.problems().is_empty(), "{}{:?}", good.timeline(&[32.0]), good.problems());
    }

    let with_runs =
        |seen: &Seen, parts: &[&str]| -> Result<Seen> { Ok(Seen { runs: self::seen(seen.after, &runs(parts))?.runs, ..seen.clone() }) };
    let spared = Seen { spared: true, ..quiet.clone() };
    let bad = [
        ("missed: the slot at 50.0", with_runs(&quiet, &[BY_ITSELF, CUT])?),
        ("off schedule: the start at 38.0", with_runs(&quiet, &[BY_ITSELF, CUT, AGAIN, SCHEDULED])?),
        (
            "off schedule: the start at 20.0",
            with_runs(&quiet, &[BY_ITSELF, "20.0 x start\n20.5 x end 0\n20.5 x stopped success exited 0\n", CUT, SCHEDULED])?,
        ),
        ("run again, though its rule is to be quiet", Seen { after: After::UntilNext, ..rerun.clone() }),
        ("not run again: cut at 35.0", Seen { after: After::Rerun, renewed: Vec::new(), ..quiet.clone() }),
        ("no casualty for what was cut at 35.0", Seen { casualties: Vec::new(), ..quiet.clone() }),
        ("the casualty of 36.0 is called certain", Seen { casualties: vec![(35.5, true), (36.0, true)], ..quiet.clone() }),
        ("its rules spare it", spared),
        ("OnFailure= was started 1 times", Seen { failures: 1, ..quiet.clone() }),
        (
            "OnFailure= was started 0 times",
            with_runs(&quiet, &["10.1 a start\n10.2 a end 1\n10.2 a stopped exit-code exited 1\n", CUT, SCHEDULED])?,
        ),
    ];
    for (wanted, bad) in bad {
        let problems = bad.problems();
        ensure!(problems.iter().any(|problem| problem.contains(wanted)), "not seen: {wanted}\n{}{problems:?}", bad.timeline(&[32.0]));
    }
    Ok(())
}
