//! Kubernetes as far as it matters: one pod a workload, which takes time to start and to stop.

use super::{BAD_IMAGE, NodeSim, TICK_MS, World};

#[derive(Clone, Debug)]
pub struct WorkloadSim {
    pub hash: String,
    pub image: String,
    pub changed_at_ms: u64,
    pub deleting: bool,
}

#[derive(Clone, Debug)]
pub struct PodSim {
    pub uid: String,
    pub hash: String,
    pub image: String,
    pub starts_at_ms: u64,
    /// It was asked to stop and will be killed then.
    pub deleting_until: Option<u64>,
    pub node: Option<NodeSim>,
}

impl World {
    pub fn kube_tick(&mut self) {
        self.stop_pods();
        let workloads: Vec<(String, WorkloadSim)> = self
            .workloads
            .iter()
            .map(|(name, workload)| (name.clone(), workload.clone()))
            .collect();
        for (name, workload) in workloads {
            let outdated = self
                .pods
                .get(&name)
                .is_some_and(|pod| pod.hash != workload.hash);
            if workload.deleting || outdated {
                self.delete_pod(&name);
            }
            if !self.pods.contains_key(&name) {
                if workload.deleting {
                    self.workloads.remove(&name);
                } else {
                    self.make_pod(&name, &workload);
                }
            }
        }
        self.start_processes();
    }

    fn make_pod(&mut self, name: &str, workload: &WorkloadSim) {
        let uid = self.id("pod");
        let pod = PodSim {
            uid,
            hash: workload.hash.clone(),
            image: workload.image.clone(),
            starts_at_ms: self.now_ms + 2 * TICK_MS,
            deleting_until: None,
            node: None,
        };
        self.pods.insert(name.into(), pod);
    }

    /// As `kubectl delete pod`: a primary with replicas waits for a handover, a little.
    pub fn delete_pod(&mut self, name: &str) {
        let now_ms = self.now_ms;
        let Some(pod) = self.pods.get_mut(name) else {
            return;
        };
        if pod.deleting_until.is_some() {
            return;
        }
        let waits = pod.node.as_ref().is_some_and(NodeSim::is_primary);
        pod.deleting_until = Some(now_ms + if waits { 8 * TICK_MS } else { TICK_MS });
        if let Some(node) = &mut pod.node {
            node.stopping = true;
        }
        self.note(format!("kube: {name} is asked to stop"));
    }

    fn stop_pods(&mut self) {
        let now_ms = self.now_ms;
        let names: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, pod)| {
                let handed_over = pod.node.as_ref().is_none_or(|node| !node.is_primary());
                pod.deleting_until
                    .is_some_and(|until| now_ms >= until || handed_over)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            if self.operator.is_none() {
                self.hand_over_alone(&name);
            }
            self.note(format!("kube: {name} has stopped"));
            self.pods.remove(&name);
        }
    }

    /// The process dies and comes back in the same pod, its memory empty.
    pub fn kill_process(&mut self, name: &str) {
        self.note(format!("fault: the process of {name} is killed"));
        let starts_at_ms = self.now_ms + TICK_MS;
        if let Some(pod) = self.pods.get_mut(name) {
            pod.node = None;
            pod.starts_at_ms = starts_at_ms;
        }
    }

    fn start_processes(&mut self) {
        let ready: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, pod)| {
                pod.node.is_none()
                    && pod.image != BAD_IMAGE
                    && pod.deleting_until.is_none()
                    && self.now_ms >= pod.starts_at_ms
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in ready {
            let data_id = self.id("data");
            let topology = self.topology_at_start(&name);
            let node = NodeSim::new(&name, data_id, topology);
            self.note(format!("{name} starts with data {}", node.data_id));
            if let Some(pod) = self.pods.get_mut(&name) {
                pod.node = Some(node);
            }
        }
    }
}
