//! Golden pictures, and that whatever a rollout holds makes one that can be read. `PICTURES=DIR cargo test --lib cli::plot` writes them
//! to look at.

use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::pen::{WIDTH, width};
use super::svg;
use crate::cli::output::Page;
use crate::cli::tests::typed;
use crate::cli::{Cli, Exit};
use crate::core::deploy::{Deploy, Scope};
use crate::core::entry::{Entry, Written};
use crate::core::status::{Casualty, CasualtyKind, FlightView, PhaseView, RolloutResult, RolloutView, UnitEnd, UnitOutcome};
use crate::core::time::{Mono, Wall};
use crate::store;

/// 2026-11-22T22:15:02.5Z.
const START: Wall = Wall(1_795_385_702_500_000);

fn at(seconds: f64) -> Wall {
    START.after(Duration::from_secs_f64(seconds))
}

/// A rollout that took so long.
fn rollout(seconds: f64) -> RolloutView {
    RolloutView {
        id: "r17".to_owned(),
        deploy: "2026-11-22.3".to_owned(),
        started_at: START,
        finished_at: Some(at(seconds)),
        result: Some(RolloutResult::Converged),
        casualties: Vec::new(),
        phases: Vec::new(),
        units: Vec::new(),
        flights: Vec::new(),
        reason: None,
        by: None,
        why: None,
    }
}

/// Its phases, one after the other, each with its length.
fn phases(target: &str, from: f64, lengths: &[(&str, f64)]) -> Vec<PhaseView> {
    let mut began = from;
    let mut one = |&(phase, length): &(&str, f64)| {
        let (started_at, finished_at) = (at(began), Some(at(began + length)));
        began += length;
        PhaseView { target: target.to_owned(), phase: phase.to_owned(), started_at, finished_at }
    };
    lengths.iter().map(&mut one).collect()
}

fn ended(target: &str, unit: &str, what: UnitEnd) -> UnitOutcome {
    UnitOutcome { target: target.to_owned(), unit: unit.to_owned(), what, why: String::new(), notes: Vec::new(), starved: false }
}

/// So many values between two moments, by what they are at each part of the way.
fn flights(unit: &str, from: f64, until: f64, values: u32, of: impl Fn(f64) -> f64) -> Vec<FlightView> {
    let one = |n: u32| {
        let part = f64::from(n) / f64::from(values - 1);
        FlightView { unit: unit.to_owned(), at: at(from + (until - from) * part), in_flight: of(part).round() as u32 }
    };
    (0..values).map(one).collect()
}

fn cut(seconds: f64, name: &str) -> Casualty {
    Casualty {
        target: "jobrunner".to_owned(),
        unit: "php8.2-fpm.service".to_owned(),
        what: CasualtyKind::Request,
        pid: 4711,
        name: name.to_owned(),
        ran: "8.4s".to_owned(),
        ended_by: "SIGTERM".to_owned(),
        certain: true,
        perhaps: false,
        at: at(seconds),
        rollout: None,
        request: Some("GET /?token=secret".to_owned()),
    }
}

const IN_PLACE: [(&str, f64); 5] = [("preflight", 0.15), ("depool", 0.9), ("drain", 5.0), ("restart", 0.6), ("repool", 0.8)];

/// What a jobrunner shows: most requests end in the drain, two are cut; the scripts beside it have no phases.
fn in_place() -> RolloutView {
    let mut view = rollout(8.1);
    view.phases = phases("jobrunner", 0.1, &IN_PLACE);
    view.units = vec![
        ended("jobrunner", "php8.2-fpm.service", UnitEnd::Renewed),
        ended("maintenance", "mediawiki_job_a.service", UnitEnd::Renewed),
        ended("maintenance", "mediawiki_job_b.service", UnitEnd::Left),
    ];
    view.flights = flights("php8.2-fpm.service", 1.15, 6.15, 18, |part| 2.0 + 22.0 * (1.0 - part).powi(3));
    view.flights.push(FlightView { unit: "php8.2-fpm.service".to_owned(), at: at(6.4), in_flight: 0 });
    view.casualties = vec![cut(6.2, "/srv/app/rpc/RunSingleJob.php"), cut(6.2, "/srv/app/rpc/RunSingleJob.php")];
    view
}

/// Twelve targets on one host.
fn twelve() -> RolloutView {
    let mut view = rollout(75.0);
    for n in 0..12_u8 {
        let target = format!("target-{n}");
        let drain = 4.0 * f64::from(n) + 1.0;
        let lengths = [("preflight", 0.4), ("depool", 2.0), ("drain", drain), ("restart", 2.5), ("verify", 1.0), ("repool", 1.5)];
        view.phases.extend(phases(&target, 0.2, &lengths));
        view.units.push(ended(&target, "a.service", UnitEnd::Renewed));
        view.flights.extend(flights(&format!("php-{n}.service"), 2.6, 2.6 + drain, 12, |part| f64::from(n + 3) * (1.0 - part)));
    }
    view.casualties = (0..30_u8).map(|n| cut(20.0 + f64::from(n), "/srv/app/index.php")).collect();
    view
}

/// Forty generations that linger.
fn forty() -> RolloutView {
    let mut view = rollout(6.0);
    view.phases = phases("videoscaler", 0.0, &[("preflight", 0.2), ("start", 0.8), ("warm", 2.0), ("proof", 0.4), ("switch", 0.1)]);
    view.units = vec![ended("videoscaler", "php-fpm-job@2026-11-22-3.service", UnitEnd::Renewed)];
    for n in 0..40_u8 {
        let unit = format!("php-fpm-job@2026-11-22-a1b2c3d4e5f6-{n}.service");
        let length = 20.0 + 60.0 * f64::from(n);
        view.flights.extend(flights(&unit, 3.5, 3.5 + length, 8, |part| f64::from(n % 5 + 1) * (1.0 - part)));
    }
    view
}

/// A transcode of a day.
fn a_day() -> RolloutView {
    let mut view = rollout(9.0);
    view.phases = phases("videoscaler", 0.1, &[("preflight", 0.3), ("start", 1.1), ("warm", 4.0), ("proof", 0.5), ("switch", 0.2)]);
    view.units = vec![ended("videoscaler", "php-fpm-job@2026-11-22-3.service", UnitEnd::Renewed)];
    view.flights = flights("php-fpm-job@boot.service", 6.2, 86_400.0, 60, |part| 1.0 + 60.0 * (-25.0 * part).exp());
    view.flights.push(FlightView { unit: "php-fpm-job@boot.service".to_owned(), at: at(86_401.0), in_flight: 0 });
    view.flights.extend(flights("php-fpm-job@2026-11-22-2.service", 6.2, 14_000.0, 30, |part| 12.0 * (1.0 - part)));
    view.casualties = vec![cut(86_400.0, "/srv/app/transcode.php")];
    view
}

fn failed() -> RolloutView {
    let mut view = rollout(0.3);
    view.phases = phases("jobrunner", 0.02, &[("preflight", 0.26)]);
    view.units = vec![ended("jobrunner", "php8.2-fpm.service", UnitEnd::Failed)];
    view.result = Some(RolloutResult::Failed);
    view.why = Some("php8.2-fpm.service: its configuration is broken, php-fpm -t says: unknown entry 'pm.max_childs'. ".repeat(3));
    view
}

fn running() -> RolloutView {
    let mut view = in_place();
    view.finished_at = None;
    view.result = None;
    view.casualties.clear();
    view.phases.retain(|phase| ["preflight", "depool", "drain"].contains(&phase.phase.as_str()));
    view.phases[2].finished_at = None;
    view.flights.truncate(14);
    view.by = Some("uid 1001 (amy)".to_owned());
    view.reason = Some("opcache is corrupt".to_owned());
    view
}

fn no_phases() -> RolloutView {
    let mut view = rollout(2.0);
    view.units = vec![ended("maintenance", "a.service", UnitEnd::Left)];
    view
}

fn hostile() -> RolloutView {
    let bad = "\u{0}\u{1b}]0;x\u{7}<script>&\"'\u{202e}\u{ffff}]]>\u{1f4a3}\r\n";
    let mut view = in_place();
    view.deploy = format!("{bad}{}", "WWWW ".repeat(100));
    view.why = Some(bad.to_owned());
    for phase in &mut view.phases {
        phase.target = bad.to_owned();
    }
    view.phases[0].phase = bad.repeat(40);
    for flight in &mut view.flights {
        flight.unit = bad.repeat(9);
    }
    view.casualties[0].name = bad.repeat(50);
    view
}

/// Seen from UTC+1, 5.5 s after the start.
fn page() -> Page {
    Page { now: at(5.5), zone: TimeZone::fixed(jiff::tz::offset(1)), width: None }
}

/// No XML, a number that is none, something outside of the picture, or text over text.
fn wrong_with(picture: &str) -> Option<String> {
    let document = match roxmltree::Document::parse(picture) {
        Ok(document) => document,
        Err(error) => return Some(error.to_string()),
    };
    let height: f64 = document.root_element().attribute("height")?.parse().ok()?;
    let mut boxes: Vec<(f64, f64, f64, &str)> = Vec::new();
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        for name in ["d", "x", "y", "width", "transform"] {
            if let Some(value) = node.attribute(name).filter(|value| value.contains("NaN") || value.contains("inf")) {
                return Some(format!("{name}={value}"));
            }
        }
        let number = |name: &str| node.attribute(name).and_then(|value| value.parse::<f64>().ok());
        if let (true, Some(x), Some(y)) = (node.has_tag_name("text"), number("x"), number("y")) {
            let (class, text) = (node.attribute("class").unwrap_or_default(), node.text().unwrap_or_default());
            let is = |one: &str| class.split(' ').any(|class| class == one);
            let wide = width(
                text,
                if is("b") {
                    20.25
                } else if is("n") {
                    11.0
                } else {
                    12.0
                },
            );
            let left = if is("l") || is("e") {
                x - wide
            } else if is("m") {
                x - wide / 2.0
            } else {
                x
            };
            if left < 0.0 || left + wide > WIDTH + 0.5 || y > height {
                return Some(format!("{text:?} is not inside: {left} to {}, {y}", left + wide));
            }
            // Text of 11 or 12 px takes 9 above its line and 2 below.
            let over = boxes.iter().find(|(l, r, other, _)| left < *r && *l < left + wide && (y - other).abs() < 11.0);
            if let Some((.., other)) = over {
                return Some(format!("{text:?} is over {other:?}"));
            }
            boxes.push((left, left + wide, y, text));
        }
    }
    None
}

#[test]
fn golden_pictures() {
    let all = [
        ("in_place", in_place()),
        ("twelve_targets", twelve()),
        ("forty_generations", forty()),
        ("a_day", a_day()),
        ("failed_in_300_ms", failed()),
        ("running", running()),
        ("no_phases", no_phases()),
        ("nothing_at_all", rollout(0.0)),
        ("hostile", hostile()),
    ];
    for (name, view) in all {
        let picture = svg(&view, &page());
        if let Some(dir) = std::env::var_os("PICTURES") {
            fs::write(Path::new(&dir).join(format!("{name}.svg")), &picture).unwrap();
        }
        assert_eq!(wrong_with(&picture), None, "{name}");
        assert!(!picture.contains("secret"), "{name} has a request line");
        insta::assert_snapshot!(name, picture);
    }
}

/// The picture in the documents.
#[test]
fn the_example_is_what_is_drawn() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations/rollout.svg");
    let drawn = svg(&in_place(), &Page { zone: TimeZone::UTC, ..page() });
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&example, &drawn).unwrap();
    }
    let there = fs::read_to_string(&example).unwrap_or_default();
    assert!(there == drawn, "docs/operations/rollout.svg is out of date: UPDATE=1 cargo test --lib cli::plot");
}

/// What the journal says of a rollout that is under way.
fn entries(id: &str) -> Vec<Written> {
    let deploy =
        Deploy { id: format!("deploy-{id}"), landed_at: START, landed: Mono(0), targets: Scope::All, forced: Scope::none(), reason: None };
    let (rollout, target, unit) = (Some(id.to_owned()), "jobrunner".to_owned(), "php8.2-fpm.service".to_owned());
    let flight = Entry::InFlight { rollout, target: target.clone(), unit, in_flight: 5 };
    let entries = [
        Entry::RolloutStarted { id: id.to_owned(), deploy, targets: [target.clone()].into(), by: None, over_hold: false },
        Entry::PhaseBegan { target, phase: "drain".to_owned() },
        flight,
    ];
    entries.into_iter().zip(0_u32..).map(|(entry, n)| Written { at: at(f64::from(n)), entry }).collect()
}

#[tokio::test]
async fn the_rollout_that_was_asked_for_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let ask = |words: &[&str]| typed(&[&["history", "--state-dir", state.to_str().unwrap(), "--plot"], words].concat());
    let (exit, said) = ask(&["-"]);
    assert!(exit == Exit::Failed && said.contains("the agent has not run here yet"), "{said}");
    let (store, _) = store::Store::open(&state, |memory, written| memory.apply(written)).unwrap();
    let over = Written { at: at(5.0), entry: Entry::RolloutFinished { result: RolloutResult::Converged, why: None } };
    store.append([entries("r0"), vec![over], entries("r1")].concat()).await.unwrap();

    let (exit, newest) = ask(&["-"]);
    assert_eq!((exit, wrong_with(&newest)), (Exit::Done, None), "{newest}");
    // Under way, and as far as it has come.
    assert!(newest.contains("Deploy deploy-r1: under way") && newest.contains(">drain") && newest.contains("max 5"), "{newest}");
    let (_, older) = ask(&["-", "--rollout", "r0"]);
    assert!(older.contains("Deploy deploy-r0: converged"), "{older}");
    assert_eq!(ask(&["-", "-n", "2"]), (Exit::Done, older.clone()));
    let nowhere = "history does not have rollout \"r9\": restart-agent history lists what it has";
    assert_eq!(ask(&["-", "--rollout", "r9"]), (Exit::Failed, format!("! restart-agent: {nowhere}\n")));
    assert!(ask(&["-", "-n", "3"]).1.contains("does not have so many rollouts"));

    let file = dir.path().join("r.svg");
    fs::write(&file, "x".repeat(100_000)).unwrap();
    assert_eq!(ask(&[file.to_str().unwrap(), "--rollout", "r0"]), (Exit::Done, String::new()));
    assert_eq!(fs::read_to_string(&file).unwrap(), older);
    let (link, pipe, missing) = (dir.path().join("link"), dir.path().join("pipe"), dir.path().join("missing/r.svg"));
    std::os::unix::fs::symlink(&file, &link).unwrap();
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [&link, &pipe, &state] {
        let (exit, said) = ask(&[path.to_str().unwrap()]);
        assert!(exit == Exit::Failed && said.contains("is no regular file"), "{said}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), older, "the link was followed");
    let (exit, said) = ask(&[missing.to_str().unwrap()]);
    assert!(exit == Exit::Failed && said.contains("missing/r.svg: No such file"), "{said}");

    for words in [&["--rollout", "r0"][..], &["--plot", "-", "--json"], &["--plot", "-", "-n", "2", "--rollout", "r0"]] {
        assert!(Cli::try_parse_from([&["restart-agent", "history"], words].concat()).unwrap_err().use_stderr(), "{words:?}");
    }
}

/// Text from anywhere: what XML and SVG give a meaning, what a terminal does, any character at all.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9@.-]{0,40}",
        any::<String>(),
        "[\\PC\u{0}-\u{1f}<>&\"'\u{202e}\u{fffe}\u{ffff}]{0,60}",
        Just("W".repeat(5000)),
        Just("]]><!--&#0;".to_owned()),
    ]
}

/// Near the rollout, or anywhere.
fn moment() -> impl Strategy<Value = Wall> {
    prop_oneof![
        (0..90_000_000_000_i64).prop_map(|after| Wall(START.0 + after)),
        Just(Wall(i64::MIN)),
        Just(Wall(i64::MAX)),
        any::<i64>().prop_map(Wall)
    ]
}

prop_compose! {
    fn any_phase()(target in text(), phase in text(), started_at in moment(), finished_at in proptest::option::of(moment())) -> PhaseView {
        PhaseView { target, phase, started_at, finished_at }
    }
}

prop_compose! {
    fn any_flight()(unit in text(), at in moment(), in_flight in prop_oneof![0..30_u32, any::<u32>()]) -> FlightView {
        FlightView { unit, at, in_flight }
    }
}

prop_compose! {
    fn any_cut()(name in text(), unit in text(), ran in text(), ended_by in text(), at in moment(), perhaps in any::<bool>(), pid in 0..3_u32) -> Casualty {
        Casualty { name, unit, ran, ended_by, at, perhaps, pid, ..cut(0.0, "") }
    }
}

prop_compose! {
    fn any_rollout()(
        (id, deploy, why, by, reason) in (text(), text(), proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(text())),
        (started_at, finished_at) in (moment(), proptest::option::of(moment())),
        phases in proptest::collection::vec(any_phase(), 0..30),
        flights in proptest::collection::vec(any_flight(), 0..60),
        casualties in proptest::collection::vec(any_cut(), 0..30),
        units in proptest::collection::vec((text(), text()), 0..30),
    ) -> RolloutView {
        let units = units.iter().map(|(target, unit)| ended(target, unit, UnitEnd::Renewed)).collect();
        RolloutView { id, deploy, why, by, reason, started_at, finished_at, phases, flights, casualties, units, ..rollout(1.0) }
    }
}

proptest! {
    #[test]
    fn whatever_a_rollout_holds_is_a_picture(view in any_rollout()) {
        let picture = svg(&view, &page());
        let wrong = wrong_with(&picture);
        prop_assert!(wrong.is_none(), "{wrong:?}\n{picture}");
    }
}
