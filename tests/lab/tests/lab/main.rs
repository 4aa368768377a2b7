//! The lab tested on itself: hosts boot, obey, and leave nothing behind; the load generator tells the truth.

mod generations;
mod hosts;
mod traces;
mod web;

use std::process::ExitCode;

fn main() -> ExitCode {
    if traces::is_victim() {
        return traces::victim();
    }
    lab::suite()
        .plain("wait_for_says_what_it_saw", hosts::wait_for_says_what_it_saw)
        .on_each("commands", hosts::commands)
        .on_each("files", hosts::files)
        .on_each("systemd", hosts::systemd)
        .on_each("power", hosts::power)
        .on(lab::Release::Bookworm, "packages", hosts::packages)
        .on(lab::Release::Bookworm, "two_at_once", hosts::two_at_once)
        .on_each("nothing_is_left", traces::nothing_is_left)
        .on(lab::Release::Bookworm, "nothing_is_left_after_a_panic", traces::nothing_is_left_after_a_panic)
        .on(lab::Release::Bookworm, "a_killed_test_is_cleaned_up_later", traces::a_killed_test_is_cleaned_up_later)
        .on_each("no_request_is_lost_at_rest", web::no_request_is_lost_at_rest)
        .on_each("a_depool_lets_requests_finish", web::a_depool_lets_requests_finish)
        .on_each("a_restart_cuts_what_runs_and_no_more", web::a_restart_cuts_what_runs_and_no_more)
        .on_each("a_restart_in_the_pool_shows_its_losses", web::a_restart_in_the_pool_shows_its_losses)
        .on_each("every_kind_of_status", web::every_kind_of_status)
        .on_each("nothing_hides_a_loss_behind_any_web_server", generations::nothing_hides_a_loss)
        .run()
}
