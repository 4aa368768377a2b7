use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const START: Wall = Wall(1_000_000_000_000_000);

fn rules() -> OpcacheRules {
    OpcacheRules { min_free: Some(20 * MIB), min_free_keys: Some(500), max_wasted: Some(20), every: MINUTE }
}

/// 128 MiB, of which so many are used.
fn used(mib: u64) -> OpcacheSeen {
    OpcacheSeen { used: mib * MIB, free: (128 - mib) * MIB, keys: 100, max_keys: 16_229, since: START, ..OpcacheSeen::default() }
}

fn crossed_why(rules: &OpcacheRules, seen: &OpcacheSeen) -> String {
    crossed(rules, seen).map(|crossed| format!("{}; {}", crossed.why, crossed.setting)).unwrap_or_default()
}

fn problem(verdict: Verdict) -> String {
    match verdict {
        Verdict::TooSmall { problem } => problem,
        other => format!("{other:?}"),
    }
}

#[test]
fn each_bound_by_itself() {
    let rules = rules();
    assert_eq!(crossed_why(&rules, &used(108)), "", "on the bound is within it");
    assert_eq!(
        crossed_why(&rules, &OpcacheSeen { free: 20 * MIB - 1, ..used(108) }),
        "19 MiB of its 127 MiB are free, less than min_free = 20 MiB; opcache.memory_consumption"
    );
    assert_eq!(crossed_why(&rules, &OpcacheSeen { keys: 15_729, ..used(1) }), "");
    assert_eq!(
        crossed_why(&rules, &OpcacheSeen { keys: 15_730, ..used(1) }),
        "499 of its 16229 keys are free, less than min_free_keys = 500; opcache.max_accelerated_files"
    );
    let wasted = |mib: u64| OpcacheSeen { wasted: mib * MIB, free: 40 * MIB, ..used(88 - mib) };
    assert_eq!(crossed_why(&rules, &wasted(25)), "");
    assert_eq!(
        crossed_why(&rules, &wasted(26)),
        "26 MiB of its 128 MiB are wasted, more than max_wasted = 20%; opcache.memory_consumption"
    );
    let full = OpcacheSeen { full: true, ..used(60) };
    assert_eq!(crossed_why(&rules, &full), "it is full, at 128 MiB; opcache.memory_consumption");
    let none = OpcacheRules { min_free: None, min_free_keys: None, max_wasted: None, every: MINUTE };
    assert_eq!(crossed_why(&none, &OpcacheSeen { keys: 16_229, ..used(128) }), "", "no bound is set");
    assert_ne!(crossed_why(&none, &full), "", "what PHP calls full is full");
    assert_eq!(crossed_why(&none, &OpcacheSeen::default()), "");
    let most = OpcacheSeen { used: u64::MAX, free: u64::MAX, wasted: u64::MAX, keys: u64::MAX, max_keys: 0, ..used(0) };
    assert_ne!(crossed_why(&rules, &most), "");
}

#[test]
fn one_that_is_about_to_empty_itself_is_let_alone() {
    let seen = OpcacheSeen { restarting: true, full: true, ..used(128) };
    assert_eq!(judge(&rules(), &seen, &GuardMemory::default(), START.after(MINUTE)), Verdict::Within);
}

#[test]
fn a_bound_that_no_opcache_of_this_size_could_keep_is_a_problem_and_no_rollout() {
    let seen = used(1);
    let memory = OpcacheRules { min_free: Some(200 * MIB), ..rules() };
    assert_eq!(
        problem(judge(&memory, &seen, &GuardMemory::default(), START)),
        "its opcache is too small for the code: 127 MiB of its 128 MiB are free, less than min_free = 200 MiB, which is all that it has; raise opcache.memory_consumption"
    );
    let keys = OpcacheRules { min_free_keys: Some(16_229), ..rules() };
    assert!(problem(judge(&keys, &seen, &GuardMemory::default(), START)).ends_with("raise opcache.max_accelerated_files"));
}

#[test]
fn one_that_is_full_again_soon_after_a_rollout_is_not_renewed_again() {
    let (full, rules) = (used(120), rules());
    let mut memory = GuardMemory::default();
    let Verdict::Renew { why } = judge(&rules, &full, &memory, START.after(MINUTE)) else { panic!() };
    assert!(why.contains("8 MiB of its 128 MiB are free"), "{why}");
    memory.renewed = Some(START.after(MINUTE));
    // Its restart has not come yet, or not to its end.
    assert!(matches!(judge(&rules, &full, &memory, START.after(2 * MINUTE)), Verdict::Wait { .. }));
    // The new one started in the same second in which the rollout began.
    let fresh = OpcacheSeen { since: START.after(MINUTE), ..full.clone() };
    assert!(problem(judge(&rules, &fresh, &memory, START.after(10 * MINUTE))).contains("too small"));
    memory.too_small = Some(OpcacheSize::of(&fresh));
    for later in [31, 300, 30_000] {
        assert!(problem(judge(&rules, &fresh, &memory, START.after(later * MINUTE))).contains("too small"), "{later}");
    }
    // A deploy makes it empty: that says nothing yet.
    let since = START.after(100 * MINUTE);
    assert_eq!(judge(&rules, &OpcacheSeen { since, ..used(9) }, &memory, since.after(29 * MINUTE)), Verdict::Within);
    assert_eq!(judge(&rules, &OpcacheSeen { since, ..used(9) }, &memory, since.after(30 * MINUTE)), Verdict::FitsAgain);
    // A larger one has its own chance.
    let larger = OpcacheSeen { used: 250 * MIB, ..full };
    assert!(matches!(judge(&rules, &larger, &memory, START.after(100 * MINUTE)), Verdict::Renew { .. }));
}

#[test]
fn one_that_fills_slowly_is_renewed_each_time_but_not_more_often_than_the_pause() {
    let memory = GuardMemory { renewed: Some(START), too_small: None };
    let verdict = |minutes: u32| judge(&rules(), &used(120), &memory, START.after(minutes * MINUTE));
    assert!(matches!(verdict(29), Verdict::TooSmall { .. }));
    assert!(matches!(verdict(30), Verdict::Renew { .. }));
}

#[test]
fn a_clock_that_was_wrong_does_not_stop_the_guard_t04() {
    let memory = GuardMemory { renewed: Some(START.after(100_000 * MINUTE)), too_small: None };
    let seen = OpcacheSeen { since: START.after(200_000 * MINUTE), ..used(120) };
    assert!(matches!(judge(&rules(), &seen, &memory, START), Verdict::Renew { .. }));
}
