//! The ConfigMap in which starting nodes find the topology when neither operator nor peers are there.

use k8s_openapi::api::core::v1::ConfigMap;

use super::labels::{Owner, cache_labels};
use super::topology_config_map_name;
use crate::api::topology::Topology;
use crate::plan::Desired;

pub const TOPOLOGY_KEY: &str = "topology.json";

pub fn topology_config_map(desired: &Desired, topology: &Topology) -> ConfigMap {
    let json = topology.to_wire(&desired.addressing).json();
    ConfigMap {
        metadata: Owner::cache(desired).metadata(
            topology_config_map_name(&desired.name),
            cache_labels(&desired.name),
        ),
        data: Some([(TOPOLOGY_KEY.to_string(), json)].into()),
        ..ConfigMap::default()
    }
}
