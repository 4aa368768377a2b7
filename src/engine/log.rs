//! What goes into the system's journal: the story of each rollout, as it is written into ours.

use crate::core::entry::{Entry, Written};
use crate::core::status::UnitEnd;

/// Tells what a person would want to read at 3 in the morning; most entries are not of that kind.
pub(super) fn tell(written: &Written) {
    match &written.entry {
        Entry::Watching { path } => tracing::info!(path, "watches {path}; what is there now counts as reached"),
        Entry::Adopted { target, .. } => {
            tracing::info!(target_name = target, "{target}: adopted, nothing of it is renewed until the next deploy")
        }
        Entry::Dropped { target } => tracing::info!(target_name = target, "{target}: no longer in the configuration"),
        Entry::RolloutStarted { id, deploy, targets, by, .. } => {
            let names = targets.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let by = by.as_deref().map(|by| format!(", ordered by {by}")).unwrap_or_default();
            tracing::info!(rollout = id, deploy = deploy.id, "rollout {id} of deploy {} begins for {names}{by}", deploy.id);
        }
        Entry::UnitEnded(end) if end.what == UnitEnd::Failed => {
            tracing::error!(target_name = end.target, unit = end.unit, "{}: {}", end.unit, end.why)
        }
        Entry::UnitEnded(end) => tracing::info!(target_name = end.target, unit = end.unit, "{}: {}", end.unit, end.why),
        Entry::Casualty(cut) if cut.perhaps => {
            tracing::warn!(unit = cut.unit, "may have been cut: {} of {}", cut.name, cut.unit);
        }
        Entry::Casualty(cut) => {
            let certain = if cut.certain { "" } else { " (not certain)" };
            tracing::warn!(
                unit = cut.unit,
                pid_cut = cut.pid,
                "cut: {} of {}, pid {}, after {} by {}{certain}",
                cut.name,
                cut.unit,
                cut.pid,
                cut.ran,
                cut.ended_by
            );
        }
        Entry::RolloutFinished { result, why } => {
            let why = why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            tracing::info!("rollout ends, {}{why}", format!("{result:?}").to_lowercase());
        }
        Entry::DeployBegan { id, until, .. } => tracing::info!("deploy {id} has begun: no script starts until it is done, or {until}"),
        Entry::BeginOver { why } => tracing::info!("scripts may start again: {why}"),
        Entry::HoldSet { reason, by, until, .. } => tracing::warn!("held by {by} until {until}: {reason}"),
        Entry::HoldEnded { by } => tracing::info!("the hold ends: {by}"),
        Entry::Ordered { by, order } => tracing::info!(by, "ordered by {by}: {}", order.word()),
        Entry::OpcacheCrossed { target, why } => tracing::warn!(target_name = target, "{target}: {why}"),
        Entry::OpcacheSized { target, too_small: Some(_) } => {
            tracing::warn!(target_name = target, "{target}: its opcache is too small for the code; it is not renewed for this any more")
        }
        Entry::OpcacheSized { target, too_small: None } => tracing::info!(target_name = target, "{target}: its opcache is large enough"),
        Entry::PoolSettled { pool, why } => tracing::info!(pool, "pool {pool}: {why}"),
        Entry::RerunSettled { unit, why } => tracing::info!(unit, "{unit}: {why}"),
        Entry::RerunSettles { unit, until, .. } => {
            tracing::info!(unit, "{unit}: runs again at {until}, when what it left behind has settled")
        }
        Entry::Lapsed { unit, .. } => {
            tracing::warn!(unit, "{unit} serves, which is older than the newest deploy: what was started for that is gone");
        }
        Entry::GenerationStarts { unit, .. } => tracing::info!(unit, "{unit}: a new generation, is about to be started"),
        Entry::Switched { unit, .. } => tracing::info!(unit, "{unit}: gets the requests from now on"),
        Entry::Lingers { unit, .. } => tracing::info!(unit, "{unit}: gets no new requests, and finishes those that it has"),
        Entry::LeftBehind { unit } => tracing::warn!(unit, "{unit} has a drop-in of ours that was left: taking it back"),
        Entry::Started { .. }
        | Entry::Clock { .. }
        | Entry::Stamp { .. }
        | Entry::Reached { .. }
        | Entry::Fresh { .. }
        | Entry::GenerationOver { .. }
        | Entry::ProvenBad { .. }
        | Entry::Unproven { .. }
        | Entry::Proven { .. }
        | Entry::Cutting { .. }
        | Entry::CutSettled { .. }
        | Entry::StrayCutting { .. }
        | Entry::StraySettled { .. }
        | Entry::PhaseBegan { .. }
        | Entry::PhaseEnded { .. }
        | Entry::Intent { .. }
        | Entry::Outcome { .. }
        | Entry::InFlight { .. }
        | Entry::Interrupted { .. }
        | Entry::DidNotComeUp { .. }
        | Entry::FoundUp { .. }
        | Entry::RanThrough { .. }
        | Entry::AskOver { .. }
        | Entry::TakesDown { .. }
        | Entry::BroughtBack { .. }
        | Entry::RerunOwed { .. } => {}
    }
}
