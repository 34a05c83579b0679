//! What to do next: the planner's answer.

use std::fmt;

use crate::api::cache::MaintenanceStatus;
use crate::api::quantity::counted;
use crate::api::region_list::RegionList;
use crate::api::topology::Topology;

/// Steps are carried out in order; at the first that fails the rest is dropped, and everything is observed and planned anew.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub waiting: Vec<Waiting>,
    pub report: Report,
    /// When to plan again although nothing is seen to change.
    pub again_at_ms: Option<u64>,
}

impl Plan {
    pub fn waits_for(&self, reason: WaitReason) -> bool {
        self.waiting.iter().any(|waiting| waiting.reason == reason)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Makes the workload of a new member.
    CreateMember {
        member: String,
        shard: String,
        index: u8,
    },
    /// Gives a member the wanted template, which restarts it. Disruptive.
    UpdateMember {
        member: String,
        template_hash: String,
        why: String,
    },
    /// Removes the workload of a member that the topology does not list.
    DeleteMember { member: String, why: String },
    /// Asks members for the topology they hold (`TOPOLOGY GET`).
    FetchTopology { members: Vec<String> },
    /// Stores the topology by compare-and-swap, then pushes it to `push` in this order. A push that fails does not hinder the next.
    WriteTopology(TopologyChange),
    /// Sends the stored topology to members that hold an older one, in this order.
    PushTopology { topology: Topology, to: Vec<String> },
    /// Sends the list of regions to members that have another.
    PushRegions {
        regions: RegionList,
        to: Vec<String>,
    },
    /// `HANDOVER` on `from`; if it succeeds, `then` as with [`Step::WriteTopology`]; if `then` cannot be stored, `RESUME` on `from`. Disruptive.
    Handover {
        shard: String,
        from: String,
        to: String,
        timeout_ms: u64,
        then: TopologyChange,
    },
    /// `MOVE SEAL` on the source's primary; if it succeeds, `then`; if `then` cannot be stored, `MOVE UNSEAL`. Disruptive.
    SealMove {
        id: String,
        primary: String,
        timeout_ms: u64,
        then: TopologyChange,
    },
    /// `SLOTSTATS` of shards' primaries: (shard, member).
    FetchSlotStats { from: Vec<(String, String)> },
    /// Stores `status.maintenance`.
    RecordMaintenance {
        status: MaintenanceStatus,
        why: String,
    },
}

/// A topology to be stored, and who is told in which order.
#[derive(Clone, Debug, PartialEq)]
pub struct TopologyChange {
    pub topology: Topology,
    /// The epoch that must be the stored one; none: nothing is stored.
    pub replaces: Option<u64>,
    pub reasons: Vec<Reason>,
    pub push: Vec<String>,
}

/// Why a topology changes; becomes an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub kind: ReasonKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReasonKind {
    /// The first topology of a Cache.
    Bootstrapped,
    /// A shard of a Cache that grows.
    ShardAdded,
    ShardRemoved,
    MemberAdded,
    MemberRemoved,
    /// A synced learner became a replica.
    ReplicaSynced,
    /// A replica came back with an empty memory.
    ReplicaRestarted,
    /// A replica cannot be reached.
    ReplicaLost,
    /// A primary was lost and a replica took over.
    FailedOver,
    HandedOver,
    /// All copies of a shard were lost.
    DataLost,
    MoveStarted,
    MoveFinished,
    MoveCancelled,
    /// Taken over from the nodes.
    Adopted,
    /// Two writers had made the same epoch.
    Conflict,
    /// Nodes held the stored topology in another version's form.
    Refreshed,
    /// A shard no longer needs its leave to serve from empty memory.
    BootstrapEnded,
}

impl ReasonKind {
    /// An event's reason.
    pub fn as_str(self) -> &'static str {
        match self {
            ReasonKind::Bootstrapped => "Bootstrapped",
            ReasonKind::ShardAdded => "ShardAdded",
            ReasonKind::ShardRemoved => "ShardRemoved",
            ReasonKind::MemberAdded => "MemberAdded",
            ReasonKind::MemberRemoved => "MemberRemoved",
            ReasonKind::ReplicaSynced => "ReplicaSynced",
            ReasonKind::ReplicaRestarted => "ReplicaRestarted",
            ReasonKind::ReplicaLost => "ReplicaLost",
            ReasonKind::FailedOver => "FailedOver",
            ReasonKind::HandedOver => "HandedOver",
            ReasonKind::DataLost => "DataLost",
            ReasonKind::MoveStarted => "MoveStarted",
            ReasonKind::MoveFinished => "MoveFinished",
            ReasonKind::MoveCancelled => "MoveCancelled",
            ReasonKind::Adopted => "TopologyAdopted",
            ReasonKind::Conflict => "TopologyConflict",
            ReasonKind::Refreshed => "TopologyRefreshed",
            ReasonKind::BootstrapEnded => "BootstrapEnded",
        }
    }

    /// Whether it is a Warning rather than Normal.
    pub fn is_warning(self) -> bool {
        matches!(
            self,
            ReasonKind::FailedOver | ReasonKind::DataLost | ReasonKind::Conflict
        )
    }
}

/// What happened when a step was carried out, for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub reason: &'static str,
    pub message: String,
    pub warning: bool,
}

impl Step {
    /// A member may stop serving or writes wait: at most one such step a plan.
    pub fn is_disruptive(&self) -> bool {
        matches!(
            self,
            Step::UpdateMember { .. } | Step::Handover { .. } | Step::SealMove { .. }
        )
    }

    /// The topology that it stores.
    pub fn change(&self) -> Option<&TopologyChange> {
        match self {
            Step::WriteTopology(change)
            | Step::Handover { then: change, .. }
            | Step::SealMove { then: change, .. } => Some(change),
            _ => None,
        }
    }

    /// A short name for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Step::CreateMember { .. } => "CreateMember",
            Step::UpdateMember { .. } => "UpdateMember",
            Step::DeleteMember { .. } => "DeleteMember",
            Step::FetchTopology { .. } => "FetchTopology",
            Step::WriteTopology(_) => "WriteTopology",
            Step::PushTopology { .. } => "PushTopology",
            Step::PushRegions { .. } => "PushRegions",
            Step::Handover { .. } => "Handover",
            Step::SealMove { .. } => "SealMove",
            Step::FetchSlotStats { .. } => "FetchSlotStats",
            Step::RecordMaintenance { .. } => "RecordMaintenance",
        }
    }

    /// What to tell the user once it is done; nothing for what is only bookkeeping.
    pub fn told(&self) -> Vec<Told> {
        let one = |reason, message| {
            vec![Told {
                reason,
                message,
                warning: false,
            }]
        };
        match self {
            Step::CreateMember { member, shard, .. } => one(
                "MemberCreated",
                format!("created member {member} of shard {shard}"),
            ),
            Step::UpdateMember { member, why, .. } => {
                one("MemberUpdated", format!("restarts member {member}: {why}"))
            }
            Step::DeleteMember { member, why } => {
                one("MemberDeleted", format!("deleted member {member}: {why}"))
            }
            Step::RecordMaintenance { why, .. } => one("Maintenance", why.clone()),
            Step::FetchTopology { .. }
            | Step::PushTopology { .. }
            | Step::PushRegions { .. }
            | Step::FetchSlotStats { .. } => Vec::new(),
            Step::WriteTopology(change)
            | Step::Handover { then: change, .. }
            | Step::SealMove { then: change, .. } => {
                let told = |reason: &Reason| Told {
                    reason: reason.kind.as_str(),
                    message: reason.message.clone(),
                    warning: reason.kind.is_warning(),
                };
                change.reasons.iter().map(told).collect()
            }
        }
    }
}

/// Something that has to happen before the plan goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: WaitReason,
    /// A sentence: for what, and what to do if it does not come by itself.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitReason {
    /// Members do not run yet.
    MembersStarting,
    /// A member does not run, and will not without help.
    MemberProblem,
    /// A member cannot be reached.
    MemberUnreachable,
    /// A primary cannot be reached; a replica takes over soon.
    PrimaryUnreachable,
    /// No member of a shard may become its primary.
    NoCandidate,
    /// Nodes belong to another topology.
    ForeignData,
    /// Nodes know a topology that has to be read first.
    AdoptingTopology,
    /// A node refuses the topology.
    PushRefused,
    /// A member copies from its primary.
    Syncing,
    /// Slots are being copied.
    MovingSlots,
    MoveFailed,
    /// The remaining shards cannot hold the data.
    NoRoom,
    /// A restarted member is not well yet.
    RollWaiting,
    /// A restarted member does not become well.
    RollStuck,
    /// A member on its way out.
    MemberStopping,
    SlotStats,
    /// A Secret that the spec names, or its key, is not there.
    SecretMissing,
    Paused,
    Deleting,
}

impl WaitReason {
    /// Every reason, in order.
    pub fn all() -> impl Iterator<Item = WaitReason> {
        std::iter::successors(Some(WaitReason::MembersStarting), |reason| reason.next())
    }

    /// Exhaustive, so that a new reason cannot be left out.
    fn next(self) -> Option<WaitReason> {
        use WaitReason::*;
        Some(match self {
            MembersStarting => MemberProblem,
            MemberProblem => MemberUnreachable,
            MemberUnreachable => PrimaryUnreachable,
            PrimaryUnreachable => NoCandidate,
            NoCandidate => ForeignData,
            ForeignData => AdoptingTopology,
            AdoptingTopology => PushRefused,
            PushRefused => Syncing,
            Syncing => MovingSlots,
            MovingSlots => MoveFailed,
            MoveFailed => NoRoom,
            NoRoom => RollWaiting,
            RollWaiting => RollStuck,
            RollStuck => MemberStopping,
            MemberStopping => SlotStats,
            SlotStats => SecretMissing,
            SecretMissing => Paused,
            Paused => Deleting,
            Deleting => return None,
        })
    }

    /// A condition's or metric's reason.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::MembersStarting => "MembersStarting",
            WaitReason::MemberProblem => "MemberProblem",
            WaitReason::MemberUnreachable => "MemberUnreachable",
            WaitReason::PrimaryUnreachable => "PrimaryUnreachable",
            WaitReason::NoCandidate => "NoCandidate",
            WaitReason::ForeignData => "ForeignData",
            WaitReason::AdoptingTopology => "AdoptingTopology",
            WaitReason::PushRefused => "PushRefused",
            WaitReason::Syncing => "Syncing",
            WaitReason::MovingSlots => "MovingSlots",
            WaitReason::MoveFailed => "MoveFailed",
            WaitReason::NoRoom => "NoRoom",
            WaitReason::RollWaiting => "RollWaiting",
            WaitReason::RollStuck => "RollStuck",
            WaitReason::MemberStopping => "MemberStopping",
            WaitReason::SlotStats => "SlotStats",
            WaitReason::SecretMissing => "SecretMissing",
            WaitReason::Paused => "Paused",
            WaitReason::Deleting => "Deleting",
        }
    }

    /// Whether it means that something is broken, rather than under way.
    pub fn is_trouble(self) -> bool {
        matches!(
            self,
            WaitReason::MemberProblem
                | WaitReason::MemberUnreachable
                | WaitReason::PrimaryUnreachable
                | WaitReason::NoCandidate
                | WaitReason::ForeignData
                | WaitReason::PushRefused
                | WaitReason::MoveFailed
                | WaitReason::NoRoom
                | WaitReason::RollStuck
                | WaitReason::SecretMissing
        )
    }
}

/// How far things are, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sentences about what is still to be done.
    pub pending: Vec<String>,
    /// Slots that still have to change their shard.
    pub slots_to_move: u32,
    /// Members that still have an older template.
    pub members_to_roll: u32,
    /// Shards or members still to be added or removed.
    pub scaling: bool,
    pub rebalancing: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::CreateMember { member, .. } => write!(f, "create {member}"),
            Step::UpdateMember {
                member,
                template_hash,
                why,
            } => {
                write!(f, "update {member} to template {template_hash} ({why})")
            }
            Step::DeleteMember { member, why } => write!(f, "delete {member} ({why})"),
            Step::FetchTopology { members } => {
                write!(f, "fetch topology from {}", members.join(", "))
            }
            Step::WriteTopology(change) => write!(f, "write {change}"),
            Step::PushTopology { topology, to } => {
                write!(f, "push epoch {} to {}", topology.epoch, to.join(", "))
            }
            Step::PushRegions { regions, to } => {
                let count = counted(regions.regions.len(), "region");
                write!(f, "push {count} to {}", to.join(", "))
            }
            Step::Handover { from, to, then, .. } => {
                write!(f, "hand over from {from} to {to}, then write {then}")
            }
            Step::SealMove {
                id, primary, then, ..
            } => {
                write!(f, "seal move {id} on {primary}, then write {then}")
            }
            Step::FetchSlotStats { from } => {
                let members: Vec<&str> = from.iter().map(|(_, member)| member.as_str()).collect();
                write!(f, "fetch slot statistics from {}", members.join(", "))
            }
            Step::RecordMaintenance { why, .. } => write!(f, "record maintenance: {why}"),
        }
    }
}

impl fmt::Display for TopologyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.topology.epoch)?;
        for reason in &self.reasons {
            write!(f, "\n    {}: {}", reason.kind.as_str(), reason.message)?;
        }
        if !self.push.is_empty() {
            write!(f, "\n    push to {}", self.push.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    /// As golden scripts and logs show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            writeln!(f, "nothing to do")?;
        }
        for step in &self.steps {
            writeln!(f, "- {step}")?;
        }
        for waiting in &self.waiting {
            writeln!(
                f,
                "waits ({}): {}",
                waiting.reason.as_str(),
                waiting.message
            )?;
        }
        for pending in &self.report.pending {
            writeln!(f, "pending: {pending}")?;
        }
        Ok(())
    }
}
