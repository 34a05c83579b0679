//! Services: one for clients, a headless one that names the members, and for a Cache of one shard one each for its primary and its replicas.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{Owner, cache_labels, member_selector};
use crate::api::names::{CONTROL_PORT, LABEL_ROLE, METRICS_PORT, PORT, nodes_service};
use crate::plan::Desired;

#[derive(Clone, Debug)]
pub struct Services {
    pub wanted: Vec<Service>,
    /// Names of those that must not be there.
    pub unwanted: Vec<String>,
}

pub fn services(desired: &Desired) -> Services {
    let cache = &desired.name;
    let (rw, ro) = (format!("{cache}-rw"), format!("{cache}-ro"));
    let mut wanted = vec![clients(desired), nodes(desired)];
    let mut unwanted = Vec::new();
    // Cluster clients find the shards' primaries by themselves; for one shard, plain clients can be served as well.
    if desired.shards == 1 {
        wanted.push(by_role(desired, rw, "primary"));
        wanted.push(by_role(desired, ro, "replica"));
    } else {
        unwanted.extend([rw, ro]);
    }
    Services { wanted, unwanted }
}

fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: i32::from(port),
        target_port: Some(IntOrString::String(name.into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    }
}

fn service(desired: &Desired, name: String, spec: ServiceSpec) -> Service {
    Service {
        metadata: Owner::cache(desired).metadata(name, cache_labels(&desired.name)),
        spec: Some(spec),
        status: None,
    }
}

fn clients(desired: &Desired) -> Service {
    let spec = ServiceSpec {
        selector: Some(member_selector(&desired.name)),
        ports: Some(vec![port("redis", PORT)]),
        ..ServiceSpec::default()
    };
    service(desired, desired.name.clone(), spec)
}

fn nodes(desired: &Desired) -> Service {
    let spec = ServiceSpec {
        cluster_ip: Some("None".into()),
        // Members need each other's names to become ready.
        publish_not_ready_addresses: Some(true),
        selector: Some(member_selector(&desired.name)),
        ports: Some(vec![
            port("redis", PORT),
            port("control", CONTROL_PORT),
            port("metrics", METRICS_PORT),
        ]),
        ..ServiceSpec::default()
    };
    service(desired, nodes_service(&desired.name), spec)
}

fn by_role(desired: &Desired, name: String, role: &str) -> Service {
    let mut selector: BTreeMap<String, String> = member_selector(&desired.name);
    selector.insert(LABEL_ROLE.into(), role.into());
    let spec = ServiceSpec {
        selector: Some(selector),
        ports: Some(vec![port("redis", PORT)]),
        ..ServiceSpec::default()
    };
    service(desired, name, spec)
}
