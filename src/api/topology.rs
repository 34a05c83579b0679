//! Who holds what: the content of `status.topology`, and the form in which nodes get it (docs/protocol.md, "Topology").

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// An inclusive range of slots; `[first, last]` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotRange(pub u16, pub u16);

impl SlotRange {
    pub fn count(self) -> u32 {
        u32::from(self.1) - u32::from(self.0) + 1
    }

    pub fn contains(self, slot: u16) -> bool {
        self.0 <= slot && slot <= self.1
    }
}

impl JsonSchema for SlotRange {
    fn schema_name() -> Cow<'static, str> {
        "SlotRange".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "First and last slot.",
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 16383},
            "minItems": 2,
            "maxItems": 2,
        })
    }
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Role {
    Primary,
    Replica,
    /// Copies from the primary and serves nothing.
    #[default]
    Learner,
}

/// A member of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    #[schemars(length(max = 63))]
    pub name: String,
    /// What is in its memory: new at each start. Empty: not seen yet.
    #[serde(rename = "dataID", default)]
    #[schemars(length(max = 64))]
    pub data_id: String,
    pub role: Role,
    /// Where the process with this `dataID` was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub address: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    #[schemars(length(max = 8))]
    pub name: String,
    /// Inclusive ranges, ascending.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub slots: Vec<SlotRange>,
    /// Lets the primary serve although its memory is empty.
    #[serde(default)]
    pub bootstrap: bool,
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub members: Vec<Member>,
}

impl Shard {
    pub fn primary(&self) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| member.role == Role::Primary)
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    pub fn member_mut(&mut self, name: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.name == name)
    }

    pub fn slot_count(&self) -> u32 {
        self.slots.iter().map(|range| range.count()).sum()
    }
}

/// Slots on their way from one shard to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    #[schemars(length(max = 32))]
    pub id: String,
    #[schemars(length(max = 4096))]
    pub slots: Vec<SlotRange>,
    #[schemars(length(max = 8))]
    pub from: String,
    #[schemars(length(max = 8))]
    pub to: String,
}

impl Move {
    pub fn slot_count(&self) -> u32 {
        self.slots.iter().map(|range| range.count()).sum()
    }
}

/// Written by compare-and-swap only; a node refuses an older epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    #[serde(rename = "clusterID")]
    #[schemars(length(max = 64))]
    pub cluster_id: String,
    #[schemars(schema_with = "crate::api::schema::non_negative_integer")]
    pub epoch: u64,
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub shards: Vec<Shard>,
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub moves: Vec<Move>,
}

impl Topology {
    pub fn shard(&self, name: &str) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.name == name)
    }

    pub fn shard_mut(&mut self, name: &str) -> Option<&mut Shard> {
        self.shards.iter_mut().find(|shard| shard.name == name)
    }

    /// The shard that lists `member`, and its entry.
    pub fn find(&self, member: &str) -> Option<(&Shard, &Member)> {
        self.shards
            .iter()
            .find_map(|shard| Some((shard, shard.member(member)?)))
    }

    pub fn members(&self) -> impl Iterator<Item = (&Shard, &Member)> {
        self.shards
            .iter()
            .flat_map(|shard| shard.members.iter().map(move |member| (shard, member)))
    }

    /// What nodes are sent: the same, with each member's host and ports.
    pub fn to_wire(&self, addressing: &Addressing) -> WireTopology {
        WireTopology {
            cluster_id: self.cluster_id.clone(),
            epoch: self.epoch,
            shards: self
                .shards
                .iter()
                .map(|shard| wire_shard(shard, addressing))
                .collect(),
            moves: self.moves.clone(),
        }
    }

    /// The `topologyHash` of a node that holds this topology.
    pub fn hash(&self, addressing: &Addressing) -> String {
        self.to_wire(addressing).hash()
    }
}

fn wire_shard(shard: &Shard, addressing: &Addressing) -> WireShard {
    let member = |member: &Member| {
        let endpoint = addressing.endpoint(&member.name);
        WireMember {
            name: member.name.clone(),
            data_id: member.data_id.clone(),
            role: member.role,
            host: endpoint.host,
            address: member.address.clone(),
            port: endpoint.port,
            control_port: endpoint.control_port,
        }
    };
    WireShard {
        name: shard.name.clone(),
        slots: shard.slots.clone(),
        bootstrap: shard.bootstrap,
        members: shard.members.iter().map(member).collect(),
    }
}

/// Where clients and nodes reach a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub control_port: u16,
}

/// How a member's name becomes an endpoint. It must not change while a Cache lives, as it is part of the topology's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// Pods behind a headless Service: `<member>-0.<service>.<namespace>.svc`, on the usual ports.
    Pods { service: String, namespace: String },
    /// Processes on one machine; a member that is not listed has no ports (0).
    Local { members: BTreeMap<String, Endpoint> },
}

impl Addressing {
    pub fn endpoint(&self, member: &str) -> Endpoint {
        match self {
            Addressing::Pods { service, namespace } => Endpoint {
                host: format!("{}.{service}.{namespace}.svc", super::names::pod(member)),
                port: super::names::PORT,
                control_port: super::names::CONTROL_PORT,
            },
            Addressing::Local { members } => members.get(member).cloned().unwrap_or(Endpoint {
                host: "127.0.0.1".into(),
                port: 0,
                control_port: 0,
            }),
        }
    }
}

/// [`Topology`] as nodes get, keep and report it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WireTopology {
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    pub epoch: u64,
    pub shards: Vec<WireShard>,
    pub moves: Vec<Move>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WireShard {
    pub name: String,
    pub slots: Vec<SlotRange>,
    pub bootstrap: bool,
    pub members: Vec<WireMember>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WireMember {
    pub name: String,
    #[serde(rename = "dataID")]
    pub data_id: String,
    pub role: Role,
    pub host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    pub port: u16,
    pub control_port: u16,
}

impl WireTopology {
    /// The argument of `TOPOLOGY SET`: compact, and the same bytes for the same content.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a topology has only strings, integers and lists")
    }

    /// First 16 hex digits of SHA-256 over [`WireTopology::json`].
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.json().as_bytes());
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Without what follows from the members' names.
    pub fn to_topology(&self) -> Topology {
        let member = |member: &WireMember| Member {
            name: member.name.clone(),
            data_id: member.data_id.clone(),
            role: member.role,
            address: member.address.clone(),
        };
        let shard = |shard: &WireShard| Shard {
            name: shard.name.clone(),
            slots: shard.slots.clone(),
            bootstrap: shard.bootstrap,
            members: shard.members.iter().map(member).collect(),
        };
        Topology {
            cluster_id: self.cluster_id.clone(),
            epoch: self.epoch,
            shards: self.shards.iter().map(shard).collect(),
            moves: self.moves.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form_is_the_protocols() {
        let topology = Topology {
            cluster_id: "6f0c".into(),
            epoch: 7,
            shards: vec![Shard {
                name: "0".into(),
                slots: vec![SlotRange(0, 5460)],
                bootstrap: false,
                members: vec![Member {
                    name: "main-0-0".into(),
                    data_id: "d".into(),
                    role: Role::Primary,
                    address: Some("10.244.1.7".into()),
                }],
            }],
            moves: vec![Move {
                id: "m7-0".into(),
                slots: vec![SlotRange(5000, 5460)],
                from: "0".into(),
                to: "3".into(),
            }],
        };
        let addressing = Addressing::Pods {
            service: "main-nodes".into(),
            namespace: "team".into(),
        };
        let wire = topology.to_wire(&addressing);
        assert_eq!(
            wire.json(),
            r#"{"clusterID":"6f0c","epoch":7,"shards":[{"name":"0","slots":[[0,5460]],"bootstrap":false,"members":[{"name":"main-0-0","dataID":"d","role":"Primary","host":"main-0-0-0.main-nodes.team.svc","address":"10.244.1.7","port":6379,"controlPort":7379}]}],"moves":[{"id":"m7-0","slots":[[5000,5460]],"from":"0","to":"3"}]}"#
        );
        assert_eq!(wire.hash().len(), 16);
        assert_eq!(wire.to_topology(), topology);
        let parsed: WireTopology = serde_json::from_str(&wire.json()).unwrap();
        assert_eq!(parsed, wire);
    }
}
