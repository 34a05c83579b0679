//! The ConfigMap in which starting nodes find the topology and the regions when neither operator nor peers are there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::labels::{Owner, cache_labels};
use super::topology_config_map_name;
use crate::api::topology::Topology;
use crate::plan::Desired;

/// Beside the topology: nodes look for it in the same folder.
pub const REGIONS_KEY: &str = "regions.json";
pub const TOPOLOGY_KEY: &str = "topology.json";

pub fn topology_config_map(desired: &Desired, topology: &Topology) -> ConfigMap {
    let json = topology.to_wire(&desired.addressing).json();
    let mut data: BTreeMap<String, String> = [(TOPOLOGY_KEY.to_string(), json)].into();
    if !desired.regions.says_nothing() {
        data.insert(REGIONS_KEY.to_string(), desired.regions.json());
    }
    ConfigMap {
        metadata: Owner::cache(desired).metadata(
            topology_config_map_name(&desired.name),
            cache_labels(&desired.name),
        ),
        data: Some(data),
        ..ConfigMap::default()
    }
}
