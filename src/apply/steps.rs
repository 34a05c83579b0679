//! Carries out a plan's steps in order, on any platform.

use futures::future::join_all;

use crate::api::topology::{Topology, WireTopology};
use crate::failpoint::{Place, boundary};
use crate::node::{Command, NodeError};
use crate::plan::{Desired, Step, TopologyChange};
use crate::platform::{Error, Platform, Stored};

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// Steps that were carried out.
    pub done: usize,
    /// The step that failed, and why. If it was a push, the steps after it were done nevertheless.
    pub failed: Option<(String, String)>,
    /// The stored topology was another than the plan was made from: observe again at once.
    pub conflict: bool,
    /// Something was learnt that no watch will tell.
    pub learnt: bool,
}

/// Why a step is not done.
enum Failure {
    Conflict,
    /// Some members could not be told or asked; the step is done as far as possible.
    Partly(String),
    Failed(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Failure::Failed(error.to_string())
    }
}

/// The first that fails ends it; everything is observed and planned anew then.
pub async fn run<P: Platform + ?Sized>(platform: &P, desired: &Desired, steps: &[Step]) -> Applied {
    let mut applied = Applied::default();
    for step in steps {
        if !platform.may_act() {
            applied.failed = Some((short(step), Error::NotLeading.to_string()));
            return applied;
        }
        let key = platform.key();
        tracing::info!(cache = %key, step = %short(step), "step");
        boundary(key, Place::Before, step);
        let result = carry_out(platform, desired, step).await;
        boundary(key, Place::After, step);
        platform.noted(step, result.is_ok());
        applied.learnt |= matches!(
            step,
            Step::FetchTopology { .. } | Step::FetchSlotStats { .. }
        );
        match result {
            Ok(()) => {
                applied.done += 1;
                platform.tell(step.told());
            }
            Err(Failure::Partly(why)) => {
                tracing::info!(cache = %key, step = %short(step), why, "done in part");
                applied.done += 1;
                platform.tell(step.told());
                applied.failed = Some((short(step), why));
            }
            Err(Failure::Conflict) => {
                tracing::info!(cache = %key, step = %short(step), "something else was stored meanwhile");
                applied.conflict = true;
                return applied;
            }
            Err(Failure::Failed(why)) => {
                tracing::warn!(cache = %key, step = %short(step), why, "step failed");
                applied.failed = Some((short(step), why));
                return applied;
            }
        }
    }
    applied
}

fn short(step: &Step) -> String {
    let text = step.to_string();
    text.lines().next().unwrap_or_default().to_string()
}

async fn carry_out<P: Platform + ?Sized>(
    platform: &P,
    desired: &Desired,
    step: &Step,
) -> Result<(), Failure> {
    match step {
        Step::CreateMember {
            member,
            shard,
            index,
        } => Ok(platform
            .create_member(desired, member, shard, *index)
            .await?),
        Step::UpdateMember { member, .. } => Ok(platform.update_member(desired, member).await?),
        Step::DeleteMember { member, .. } => Ok(platform.delete_member(desired, member).await?),
        Step::FetchTopology { members } => {
            let asked = members.iter().map(async |member| {
                let answer = platform.hub().fetch_topology(platform.key(), member).await;
                answer.map_err(|error| format!("{member}: {error}"))
            });
            all_of(join_all(asked).await)
        }
        Step::FetchSlotStats { from } => {
            let asked = from.iter().map(async |(shard, member)| {
                let hub = platform.hub();
                let answer = hub.fetch_slot_stats(platform.key(), shard, member).await;
                answer.map_err(|error| format!("{member}: {error}"))
            });
            all_of(join_all(asked).await)
        }
        Step::PushTopology { topology, to } => push(platform, desired, topology, to).await,
        Step::PushRegions { regions, to } => {
            // For nodes that start while nobody can be asked; the next `ensure` tries again.
            if let Err(error) = platform.publish_regions(desired).await {
                tracing::warn!(cache = %platform.key(), %error, "cannot publish the regions for starting nodes");
            }
            let json = regions.json();
            let told = to.iter().map(async |member| {
                let command = Command::RegionsSet { json: &json };
                let answer: Result<(), NodeError> =
                    platform.hub().call(platform.key(), member, command).await;
                answer.map_err(|error| format!("{member}: {error}"))
            });
            all_of(join_all(told).await)
        }
        Step::WriteTopology(change) => {
            store(platform, desired, step, change).await?;
            push(platform, desired, &change.topology, &change.push).await
        }
        Step::Handover {
            from,
            to,
            timeout_ms,
            then,
            ..
        } => {
            let timeout_ms = *timeout_ms;
            ask(platform, from, Command::Handover { to, timeout_ms }).await?;
            let stored = store(platform, desired, step, then).await;
            if surely_not_stored(&stored) {
                undo(platform, from, Command::Resume).await;
            }
            stored?;
            push(platform, desired, &then.topology, &then.push).await
        }
        Step::SealMove {
            id,
            primary,
            timeout_ms,
            then,
        } => {
            let timeout_ms = *timeout_ms;
            ask(platform, primary, Command::MoveSeal { id, timeout_ms }).await?;
            let stored = store(platform, desired, step, then).await;
            if surely_not_stored(&stored) {
                undo(platform, primary, Command::MoveUnseal { id }).await;
            }
            stored?;
            push(platform, desired, &then.topology, &then.push).await
        }
        Step::RecordMaintenance { status, .. } => Ok(platform.record_maintenance(status).await?),
    }
}

async fn ask<P: Platform + ?Sized>(
    platform: &P,
    member: &str,
    command: Command<'_>,
) -> Result<(), Failure> {
    let answer: Result<(), NodeError> = platform.hub().call(platform.key(), member, command).await;
    Ok(answer?)
}

/// Best effort: without it the node goes on by itself after the timeout it was told.
async fn undo<P: Platform + ?Sized>(platform: &P, member: &str, command: Command<'_>) {
    let answer: Result<(), NodeError> = platform.hub().call(platform.key(), member, command).await;
    if let Err(error) = answer {
        tracing::info!(cache = %platform.key(), member, %error, "cannot take the pause back; it ends by its timeout");
    }
}

/// Why a topology was not stored.
enum NotStored {
    Conflict,
    Error(Error),
}

impl From<NotStored> for Failure {
    fn from(why: NotStored) -> Self {
        match why {
            NotStored::Conflict => Failure::Conflict,
            NotStored::Error(error) => error.into(),
        }
    }
}

/// After a timeout the write may have happened: then nodes must stay paused until they are told, or time out.
fn surely_not_stored(stored: &Result<(), NotStored>) -> bool {
    match stored {
        Ok(()) => false,
        Err(NotStored::Conflict) => true,
        Err(NotStored::Error(error)) => error.surely_not_done(),
    }
}

async fn store<P: Platform + ?Sized>(
    platform: &P,
    desired: &Desired,
    step: &Step,
    change: &TopologyChange,
) -> Result<(), NotStored> {
    match platform
        .store_topology(&change.topology, change.replaces)
        .await
    {
        Ok(Stored::Yes) => {}
        Ok(Stored::Conflict) => return Err(NotStored::Conflict),
        Err(error) => return Err(NotStored::Error(error)),
    }
    boundary(platform.key(), Place::Stored, step);
    // For nodes that start while nobody can be asked; those that run are told next. The next `ensure` tries again.
    if let Err(error) = platform.publish_topology(desired, &change.topology).await {
        tracing::warn!(cache = %platform.key(), %error, "cannot publish the topology for starting nodes");
    }
    Ok(())
}

/// How many are told one after the other; in these the plan's order matters.
const ORDERED_PUSHES: usize = 2;

async fn push<P: Platform + ?Sized>(
    platform: &P,
    desired: &Desired,
    topology: &Topology,
    to: &[String],
) -> Result<(), Failure> {
    let wire: WireTopology = topology.to_wire(&desired.addressing);
    let tell = async |member: &String| {
        let told = platform.hub().push(platform.key(), member, &wire).await;
        told.map_err(|error| format!("{member}: {error}"))
    };
    let (first, rest) = to.split_at(to.len().min(ORDERED_PUSHES));
    let mut results = Vec::new();
    for member in first {
        results.push(tell(member).await);
    }
    results.extend(join_all(rest.iter().map(tell)).await);
    all_of(results)
}

fn all_of(results: Vec<Result<(), String>>) -> Result<(), Failure> {
    let failed: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Partly(failed.join("; ")))
}

#[cfg(test)]
mod tests;
