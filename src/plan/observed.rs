//! What is there: plain data, gathered before each plan.

use std::collections::BTreeMap;

use crate::api::cache::MaintenanceStatus;
use crate::api::node_state::{NodeState, SlotStat};
use crate::api::topology::Topology;

#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// `status.topology` as stored.
    pub topology: Option<Topology>,
    /// Every member that exists as a workload or that the topology lists, by name.
    pub members: BTreeMap<String, MemberObserved>,
    /// `status.maintenance` as stored.
    pub maintenance: MaintenanceStatus,
    /// Answers to [`super::Step::FetchSlotStats`], by shard. Kept by the driver between plans.
    pub slot_stats: BTreeMap<String, SlotStats>,
    /// Kubernetes' nodes; empty where there are none (local mode).
    pub kube_nodes: BTreeMap<String, KubeNode>,
}

impl Observed {
    /// The state of a member that can be asked now.
    pub fn connected(&self, member: &str) -> Option<&NodeState> {
        self.members.get(member).and_then(MemberObserved::connected)
    }
}

#[derive(Clone, Debug, Default)]
pub struct MemberObserved {
    pub shard: String,
    pub index: u8,
    /// What makes its process be there: the StatefulSet, or the entry of local mode's table.
    pub workload: Option<Workload>,
    pub pod: Option<Pod>,
    pub link: Link,
    /// As last heard, however long ago. Kept by the driver between plans.
    pub state: Option<NodeState>,
    /// The process that sent `state` has certainly ended: its pod is gone or another, or its container has restarted since.
    pub process_ended: bool,
    /// Its answer to [`super::Step::FetchTopology`], for the epoch it holds now.
    pub topology: Option<Topology>,
    /// Why it refused the stored topology; forgotten when the topology or the process changes.
    pub push_error: Option<String>,
}

impl MemberObserved {
    /// Its state, if it can be asked now.
    pub fn connected(&self) -> Option<&NodeState> {
        match self.link {
            Link::Connected => self.state.as_ref(),
            Link::Lost { .. } | Link::Never { .. } => None,
        }
    }

    /// A process may be there, whether or not it can be reached.
    pub fn may_run(&self) -> bool {
        self.link == Link::Connected || self.pod.as_ref().is_some_and(|pod| pod.running)
    }
}

/// The operator's control connection to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Established, and heard on within the last few heartbeats.
    Connected,
    /// Established once to the present process or an earlier one, then lost.
    Lost { since_ms: u64 },
    /// Never established since this operator looks after the Cache.
    Never { since_ms: u64 },
}

impl Default for Link {
    fn default() -> Self {
        Link::Never { since_ms: 0 }
    }
}

impl Link {
    /// Since when it cannot be reached.
    pub fn down_since_ms(self) -> Option<u64> {
        match self {
            Link::Connected => None,
            Link::Lost { since_ms } | Link::Never { since_ms } => Some(since_ms),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Of the template it has now; its pod may still be older.
    pub template_hash: String,
    pub deleting: bool,
    /// When its template was last changed or it was made.
    pub changed_at_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub uid: String,
    pub template_hash: String,
    /// Its container runs, as far as Kubernetes knows.
    pub running: bool,
    pub ready: bool,
    pub deleting: bool,
    pub node: Option<String>,
    pub address: Option<String>,
    /// Why it does not run: not schedulable, image not pulled, crashing.
    pub problem: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotStats {
    pub at_ms: u64,
    /// The stored topology's epoch when they were asked for.
    pub epoch: u64,
    pub slots: Vec<SlotStat>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeNode {
    pub ready: bool,
    pub unschedulable: bool,
}
