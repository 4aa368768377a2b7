//! Stamps, clocks and restarts: when there is a deploy, and when there is none.

use restart_agent::core::Waited;
use restart_agent::core::deploy::StampSeen;
use restart_agent::core::policy::Identity;
use restart_agent::core::status::State;
use sim::host::{Deed, Host};
use sim::world::{BOOT, Fpm, FpmStart, HOUR, Hook, MINUTE, MS, S, Us, World};

use super::{rollouts, starts_by_agent};
use crate::generations;
use crate::given::{FPM, fpm_host};

fn converged(host: &Host, id: &str) -> bool {
    matches!(host.waited(None), Some(Waited::Converged { id: reached }) if reached == id)
}

fn done(host: &mut Host) {
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

/// The stamp as it is now, changed by somebody.
fn rewrite(host: &mut Host, change: impl FnOnce(&mut StampSeen)) {
    change(host.world.stamp.as_mut().unwrap());
    host.run(2 * MINUTE);
}

/// Whenever in a rollout it changes, and however often, the newest is rolled out next, and nothing after that.
#[test]
fn a_stamp_that_changes_in_a_rollout_makes_exactly_one_more_t01() {
    for gap in [100 * MS, 900 * MS] {
        // All of them while the first is rolled out, or before the next may begin.
        for at in (600 * MS..5 * S - 2 * gap).step_by(200_000) {
            let mut host = fpm_host(true, Fpm::default());
            host.world.begin_request(FPM, 13 * S);
            host.world.touch("d2");
            for (n, id) in ["d3", "d4", "d5"].into_iter().enumerate() {
                host.later(at + n as u64 * gap, Deed::Touch(id.to_owned()));
            }
            host.run(at + 3 * gap);
            assert!(host.run_until(2 * MINUTE, |host| converged(host, "d5")), "{at}: {:?}", host.waited(None));
            host.run(10 * MINUTE);
            done(&mut host);
            assert_eq!(rollouts(&host), ["d2", "d5"], "changed {at} us after the first, three times with {gap} us between");
            assert!((1..=2).contains(&starts_by_agent(&host, FPM)), "{at}");
        }
    }
}

/// The clock of the file system is too coarse to tell them apart, and their lengths are the same.
#[test]
fn of_two_stamps_within_ten_milliseconds_the_newest_wins_t02() {
    for apart in [0, 3 * MS, 9 * MS] {
        let mut host = fpm_host(true, Fpm::default());
        host.world.touch("d2");
        let mtime = host.world.stamp.as_ref().unwrap().identity.mtime;
        host.run(apart);
        host.world.touch("d3");
        host.world.stamp.as_mut().unwrap().identity.mtime = mtime;
        assert!(host.run_until(MINUTE, |host| converged(host, "d3")));
        done(&mut host);
        assert_eq!(rollouts(&host), ["d3"]);
        // A copy that keeps the time of the one before.
        host.run(MINUTE);
        host.world.touch("d4");
        host.world.stamp.as_mut().unwrap().identity.mtime = mtime;
        assert!(host.run_until(MINUTE, |host| converged(host, "d4")));
        done(&mut host);
        assert_eq!(rollouts(&host), ["d3", "d4"]);
    }
}

#[test]
fn a_change_of_its_mode_is_no_deploy_and_a_new_time_is_one_if_that_is_its_identity_t03() {
    for identity in [Identity::Mtime, Identity::Content] {
        let mut host = fpm_host(true, Fpm::default());
        let mut policy = host.policy.clone();
        policy.stamp.identity = identity;
        host.deed(Deed::Policy(Box::new(policy)));
        let later = host.world.wall(host.world.now + S);
        rewrite(&mut host, |seen| seen.ctime = later);
        assert!(rollouts(&host).is_empty(), "{identity:?}");
        rewrite(&mut host, |seen| seen.identity.mtime += 1);
        assert_eq!(rollouts(&host).len(), usize::from(identity == Identity::Mtime), "{identity:?}");
    }
}

/// A day back, a day forward: what was done stays done, and what lands is done once, after its own drain.
#[test]
fn a_clock_that_jumps_makes_no_deploy_and_hides_none_t04() {
    let day = i64::try_from(24 * HOUR).unwrap();
    for jump in [-day, -day / 24, day / 24, day] {
        let mut host = fpm_host(true, Fpm::default());
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| converged(host, "d2")));
        host.world.wall_offset += jump;
        host.run(5 * MINUTE);
        host.kill_agent();
        host.start_agent();
        host.run(5 * MINUTE);
        assert_eq!(rollouts(&host), ["d2"], "{jump}");

        host.world.touch("d3");
        assert!(host.run_until(MINUTE, |host| converged(host, "d3")), "{jump}: {:?}", host.waited(None));
        // And in the drain of the next.
        host.run(MINUTE);
        host.world.touch("d4");
        assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
        let out = host.world.now;
        host.world.begin_request(FPM, 30 * S);
        host.world.wall_offset -= jump;
        assert!(host.run_until(MINUTE, |host| host.world.sent.get(FPM).is_some_and(|sent| *sent > out)));
        let drained = host.world.sent[FPM] - out;
        assert!((5 * S..6 * S).contains(&drained), "{jump}: cut after {drained} us, with a threshold of 5 s");
        assert!(host.run_until(MINUTE, |host| converged(host, "d4")), "{jump}");
        host.run(10 * MINUTE);
        done(&mut host);
        assert_eq!((rollouts(&host).len(), starts_by_agent(&host, FPM)), (3, 3), "{jump}");
    }
}

/// What an agent does that has not run for a while, with the stamp that it knew, or with another.
#[test]
fn what_has_changed_while_nobody_looked_is_done_at_the_start_and_nothing_else_t05() {
    for changed in [false, true] {
        // It was stopped, killed, or upgraded.
        let mut host = fpm_host(true, Fpm::default());
        host.deed(Deed::KillAgent(40 * S));
        if changed {
            host.later(20 * S, Deed::Touch("d2".to_owned()));
        }
        host.run(5 * MINUTE);
        done(&mut host);
        let (expected, wanted): (&[&str], _) = if changed { (&["d2"], 1) } else { (&[], 0) };
        assert_eq!(
            (rollouts(&host).as_slice(), starts_by_agent(&host, FPM)),
            (&expected.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>()[..], wanted)
        );

        // The host was off: php-fpm starts with it, before the deploy lands, or after that.
        for lands in [S, 5 * S] {
            let mut host = generations::host_with(generations::rules(), |_| {});
            host.later(0, Deed::Reboot(10 * S));
            if changed {
                host.later(lands, Deed::Touch("d2".to_owned()));
            }
            host.run(5 * MINUTE);
            done(&mut host);
            assert_eq!(rollouts(&host), if changed { vec!["d2"] } else { vec![] }, "landed {lands} us after the host went down");
            let serves = host.world.templates.values().next().unwrap().current().unwrap();
            assert_eq!(serves.contains(BOOT), !changed || lands < 2 * S, "{serves} serves");
        }
    }
}

/// Each in its own way stands in the way of the deploy that brought it. The next one mends it, and need not wait for another try.
#[test]
fn a_broken_deploy_does_not_block_the_next_t42() {
    type Change = fn(&mut World, bool);
    fn fpm(world: &mut World) -> &mut Fpm {
        world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap()
    }
    let ways: [(&str, Change); 6] = [
        ("its configuration of php-fpm", |world, broken| fpm(world).config_good = !broken),
        ("it does not start", |world, broken| fpm(world).start = if broken { FpmStart::Fails } else { FpmStart::Well(60 * MS) }),
        ("it does not answer", |world, broken| fpm(world).pings = !broken),
        ("its depool", |world, broken| hooks(world).depool = if broken { Hook::Exits(127) } else { Hook::Works(50 * MS) }),
        ("its check", |world, broken| hooks(world).check = if broken { Hook::Hangs } else { Hook::Works(50 * MS) }),
        ("its repool", |world, broken| hooks(world).repool = if broken { Hook::Exits(127) } else { Hook::Works(50 * MS) }),
    ];
    for (what, change) in ways {
        for after in [5 * S, 3 * MINUTE, 40 * MINUTE] {
            let mut host = fpm_host(true, Fpm::default());
            change(&mut host.world, true);
            host.world.touch("d2");
            let unhappy = |host: &Host| matches!(host.state(), Some(State::Failed | State::Blocked));
            assert!(host.run_until(2 * MINUTE, unhappy), "{what}: {:?}", host.state());
            host.run(after);
            change(&mut host.world, false);
            host.world.touch("d3");
            let landed = host.world.now;
            assert!(host.run_until(2 * MINUTE, |host| converged(host, "d3")), "{what}: {:?}", host.waited(None));
            let took: Us = host.world.now - landed;
            assert!(took < 50 * S, "{what}: the next deploy took {took} us");
            done(&mut host);
            assert!(!host.world.balancers["default"].out, "{what}");
        }
    }
}

fn hooks(world: &mut World) -> &mut sim::world::Balancer {
    world.balancers.get_mut("default").unwrap()
}
