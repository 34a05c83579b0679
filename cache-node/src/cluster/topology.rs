//! Who holds what, as the operator pushes it (docs/protocol.md, "Topology").

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::limits::{MEMBERS_MAX, NAME_MAX, SHARDS_MAX, TOPOLOGY_BYTES_MAX};
use crate::log::SlotSet;
use crate::store::SLOTS;

/// An inclusive range of slots, `[first, last]` in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotRange(pub u16, pub u16);

/// What a member is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MemberRole {
    Primary,
    Replica,
    Learner,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub name: String,
    /// Empty: not seen yet.
    #[serde(rename = "dataID", default)]
    pub data_id: String,
    pub role: MemberRole,
    /// What clients are told.
    #[serde(default)]
    pub host: String,
    /// What nodes dial first, as names of new pods take time to spread; then `host`, as an address changes with its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default)]
    pub port: u16,
    #[serde(default)]
    pub control_port: u16,
}

impl Member {
    /// Where nodes reach its control port, the quickest first.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        let address = self.address.as_deref().filter(|a| !a.is_empty());
        let host = Some(&*self.host).filter(|h| !h.is_empty() && address != Some(*h));
        address.into_iter().chain(host)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    pub name: String,
    #[serde(default)]
    pub slots: Vec<SlotRange>,
    /// Lets the primary serve although it holds no data.
    #[serde(default)]
    pub bootstrap: bool,
    #[serde(default)]
    pub members: Vec<Member>,
}

impl Shard {
    pub fn primary(&self) -> Option<&Member> {
        self.members.iter().find(|m| m.role == MemberRole::Primary)
    }
}

/// Slots on their way from one shard to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    pub id: String,
    pub slots: Vec<SlotRange>,
    pub from: String,
    pub to: String,
}

impl Move {
    pub fn slot_set(&self) -> SlotSet {
        slot_set(&self.slots)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    pub epoch: u64,
    #[serde(default)]
    pub shards: Vec<Shard>,
    #[serde(default)]
    pub moves: Vec<Move>,
}

/// Why a text is no topology. Says field, value and mend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct BadTopology {
    pub field: String,
    pub problem: String,
}

fn bad(field: impl Into<String>, problem: impl Into<String>) -> BadTopology {
    BadTopology {
        field: field.into(),
        problem: problem.into(),
    }
}

impl Topology {
    pub fn shard(&self, name: &str) -> Option<&Shard> {
        self.shards.iter().find(|s| s.name == name)
    }

    /// The shard that lists a member, and its entry.
    pub fn find(&self, member: &str) -> Option<(&Shard, &Member)> {
        self.members().find(|(_, m)| m.name == member)
    }

    pub fn members(&self) -> impl Iterator<Item = (&Shard, &Member)> {
        self.shards
            .iter()
            .flat_map(|shard| shard.members.iter().map(move |member| (shard, member)))
    }

    /// For each slot the index of its shard.
    pub fn owners(&self) -> Box<[Option<u16>]> {
        let mut owners = vec![None; usize::from(SLOTS)].into_boxed_slice();
        for (index, shard) in self.shards.iter().enumerate() {
            for &SlotRange(first, last) in &shard.slots {
                for slot in first..=last.min(SLOTS - 1) {
                    owners[usize::from(slot)] = Some(index as u16);
                }
            }
        }
        owners
    }

    fn validate(&self) -> Result<(), BadTopology> {
        check_name("clusterID", &self.cluster_id)?;
        if self.epoch == 0 {
            return Err(bad("epoch", "0 is before the first topology: begin with 1"));
        }
        if self.shards.len() > SHARDS_MAX {
            let n = self.shards.len();
            return Err(bad("shards", format!("{n} shards: {SHARDS_MAX} at most")));
        }
        let mut owners: Vec<Option<usize>> = vec![None; usize::from(SLOTS)];
        let (mut names, mut members) = (BTreeSet::new(), BTreeSet::new());
        for (i, shard) in self.shards.iter().enumerate() {
            let field = format!("shards[{i}]");
            check_name(&format!("{field}.name"), &shard.name)?;
            if !names.insert(&shard.name) {
                let problem = format!("{:?} is there twice: name each shard once", shard.name);
                return Err(bad(format!("{field}.name"), problem));
            }
            self.check_slots(i, &mut owners)?;
            check_members(&field, shard, &mut members)?;
        }
        self.check_moves(&owners)
    }

    fn check_slots(&self, shard: usize, owners: &mut [Option<usize>]) -> Result<(), BadTopology> {
        let field = format!("shards[{shard}].slots");
        let ranges = &self.shards[shard].slots;
        check_ranges(&field, ranges)?;
        for slot in ranges.iter().flat_map(|r| r.0..=r.1) {
            if let Some(other) = owners[usize::from(slot)].replace(shard) {
                let other = &self.shards[other].name;
                let problem = format!("slot {slot} is shard {other:?}'s too: own each slot once");
                return Err(bad(field, problem));
            }
        }
        Ok(())
    }

    fn check_moves(&self, owners: &[Option<usize>]) -> Result<(), BadTopology> {
        let mut moving: BTreeMap<u16, &str> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for (i, m) in self.moves.iter().enumerate() {
            let field = format!("moves[{i}]");
            check_name(&format!("{field}.id"), &m.id)?;
            if !ids.insert(&m.id) {
                let problem = format!("{:?} is there twice: give each move its own", m.id);
                return Err(bad(format!("{field}.id"), problem));
            }
            for (end, name) in [("from", &m.from), ("to", &m.to)] {
                if self.shard(name).is_none() {
                    let problem = format!("no shard is named {name:?}: name one of shards[]");
                    return Err(bad(format!("{field}.{end}"), problem));
                }
            }
            if m.from == m.to {
                let problem = format!("{:?} is the source: name another shard", m.to);
                return Err(bad(format!("{field}.to"), problem));
            }
            let slots = format!("{field}.slots");
            check_ranges(&slots, &m.slots)?;
            for slot in m.slots.iter().flat_map(|r| r.0..=r.1) {
                let owner = owners[usize::from(slot)].map(|o| self.shards[o].name.as_str());
                if owner != Some(m.from.as_str()) {
                    let problem = format!(
                        "slot {slot} is not shard {:?}'s: move only slots of the source",
                        m.from
                    );
                    return Err(bad(slots, problem));
                }
                if let Some(other) = moving.insert(slot, &m.id) {
                    let problem = format!("slot {slot} is in move {other:?} too: move it once");
                    return Err(bad(slots, problem));
                }
            }
        }
        Ok(())
    }
}

fn check_name(field: &str, name: &str) -> Result<(), BadTopology> {
    let fits = !name.is_empty() && name.len() <= NAME_MAX;
    if fits && name.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let problem =
        format!("{name:?} is not 1 to {NAME_MAX} printable ASCII characters without spaces");
    Err(bad(field, problem))
}

fn check_ranges(field: &str, ranges: &[SlotRange]) -> Result<(), BadTopology> {
    let mut next = 0u32;
    for (i, &SlotRange(first, last)) in ranges.iter().enumerate() {
        let at = || format!("{field}[{i}]");
        if first > last || last >= SLOTS {
            let problem = format!("[{first},{last}] is no range: first <= last <= 16383");
            return Err(bad(at(), problem));
        }
        if u32::from(first) < next {
            let problem = format!("[{first},{last}] is not after the range before it: sort them");
            return Err(bad(at(), problem));
        }
        next = u32::from(last) + 1;
    }
    Ok(())
}

fn check_members<'a>(
    field: &str,
    shard: &'a Shard,
    all: &mut BTreeSet<&'a str>,
) -> Result<(), BadTopology> {
    let field = format!("{field}.members");
    if shard.members.len() > MEMBERS_MAX {
        let n = shard.members.len();
        return Err(bad(field, format!("{n} members: {MEMBERS_MAX} at most")));
    }
    let mut primary: Option<&str> = None;
    for (i, member) in shard.members.iter().enumerate() {
        check_name(&format!("{field}[{i}].name"), &member.name)?;
        if !all.insert(&member.name) {
            let problem = format!("{:?} is there twice: list each member once", member.name);
            return Err(bad(format!("{field}[{i}].name"), problem));
        }
        let host_ok =
            member.host.len() <= NAME_MAX && member.host.bytes().all(|b| b.is_ascii_graphic());
        if !host_ok {
            let problem = format!("{:?} is not a host name or address", member.host);
            return Err(bad(format!("{field}[{i}].host"), problem));
        }
        if member.role == MemberRole::Primary
            && let Some(other) = primary.replace(&member.name)
        {
            let problem = format!("Primary, as is {other:?}: a shard has one at most");
            return Err(bad(format!("{field}[{i}].role"), problem));
        }
    }
    Ok(())
}

pub fn slot_set(ranges: &[SlotRange]) -> SlotSet {
    ranges
        .iter()
        .flat_map(|r| r.0..=r.1.min(SLOTS - 1))
        .collect()
}

/// The ascending ranges of a set.
pub fn ranges(slots: &SlotSet) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for slot in slots.iter() {
        match ranges.last_mut() {
            Some(last) if last.1 + 1 == slot => last.1 = slot,
            _ => ranges.push(SlotRange(slot, slot)),
        }
    }
    ranges
}

/// A valid topology with the text it was set by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub topology: Topology,
    /// Compact JSON, with fields that this version does not know.
    pub json: String,
    /// First 16 hex digits of SHA-256 over `json`.
    pub hash: String,
}

impl Known {
    pub fn parse(text: &[u8]) -> Result<Self, BadTopology> {
        if text.len() > TOPOLOGY_BYTES_MAX {
            let problem = format!("{} bytes: {TOPOLOGY_BYTES_MAX} at most", text.len());
            return Err(bad("topology", problem));
        }
        let text =
            std::str::from_utf8(text).map_err(|_| bad("topology", "is not UTF-8: send JSON"))?;
        let topology: Topology =
            serde_json::from_str(text).map_err(|e| bad("topology", e.to_string()))?;
        topology.validate()?;
        let json = compact(text);
        let hash = hash(&json);
        Ok(Self {
            topology,
            json,
            hash,
        })
    }
}

/// JSON without the white space between its tokens.
fn compact(text: &str) -> String {
    let mut to = String::with_capacity(text.len());
    let (mut inside, mut escaped) = (false, false);
    for c in text.chars() {
        if inside {
            inside = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c == '"' {
            inside = true;
        } else if c.is_ascii_whitespace() {
            continue;
        }
        to.push(c);
    }
    to
}

fn hash(json: &str) -> String {
    let digest = Sha256::digest(json.as_bytes());
    digest[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// Primaries that own slots by `next` which `shard` owned before, itself aside.
pub fn new_owners<'a>(before: &Topology, next: &'a Topology, shard: &str) -> Vec<&'a Member> {
    let ours = |o: Option<u16>| o.is_some_and(|i| before.shards[usize::from(i)].name == shard);
    let owners = before
        .owners()
        .iter()
        .zip(next.owners().iter())
        .filter_map(|(was, is)| {
            let owner = &next.shards[usize::from((*is)?)];
            (ours(*was) && owner.name != shard).then_some(owner)
        })
        .collect::<Vec<_>>();
    let mut primaries: Vec<&Member> = owners.into_iter().filter_map(Shard::primary).collect();
    primaries.dedup_by(|a, b| a.name == b.name);
    primaries
}

/// What a primary knows of a replica that follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    pub data_id: String,
    pub address: Option<IpAddr>,
}

/// The topology with a shard's primary replaced, one epoch on, for a node that hands over by itself. Keeps fields that it does not know.
pub fn with_new_primary(
    known: &Known,
    shard: &str,
    new_primary: &str,
    present: &BTreeMap<String, Present>,
) -> Result<Known, BadTopology> {
    let mut value: serde_json::Value =
        serde_json::from_str(&known.json).map_err(|e| bad("topology", e.to_string()))?;
    value["epoch"] = (known.topology.epoch + 1).into();
    let shards = value["shards"].as_array_mut().into_iter().flatten();
    for entry in shards.filter(|s| s["name"] == shard) {
        entry["bootstrap"] = false.into();
        for member in entry["members"].as_array_mut().into_iter().flatten() {
            let name = member["name"].as_str().unwrap_or_default().to_owned();
            if let Some(seen) = present.get(&name) {
                member["dataID"] = seen.data_id.as_str().into();
                // A topology of local processes names no addresses.
                if let (Some(address), true) = (seen.address, member["address"].is_string()) {
                    member["address"] = address.to_string().into();
                }
            }
            if name == new_primary {
                member["role"] = "Primary".into();
            } else if member["role"] == "Primary" {
                member["role"] = "Replica".into();
            }
        }
    }
    Known::parse(value.to_string().as_bytes())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two shards of two members each; `main-0-0` and `main-1-0` are the primaries, with data IDs `d00`, `d01`, `d10`, `d11`.
    pub(crate) const TWO: &str = r#"{"clusterID":"c","epoch":7,"shards":[
        {"name":"0","slots":[[0,8191]],"members":[
          {"name":"main-0-0","dataID":"d00","role":"Primary","host":"h00","address":"10.0.0.1","port":6379,"controlPort":7379},
          {"name":"main-0-1","dataID":"d01","role":"Replica","host":"h01","port":6379,"controlPort":7379}]},
        {"name":"1","slots":[[8192,16383]],"members":[
          {"name":"main-1-0","dataID":"d10","role":"Primary","host":"h10","port":6380,"controlPort":7380},
          {"name":"main-1-1","dataID":"","role":"Replica","host":"h11","port":6380,"controlPort":7380}]}],
        "moves":[{"id":"m7-0","slots":[[0,9],[20,29]],"from":"0","to":"1"}]}"#;

    pub(crate) fn two() -> Topology {
        Known::parse(TWO.as_bytes()).unwrap().topology
    }

    #[test]
    fn reads_compacts_and_hashes() {
        let spaced = Known::parse(TWO.as_bytes()).unwrap();
        assert!(!spaced.json.contains([' ', '\n']));
        let again = Known::parse(spaced.json.as_bytes()).unwrap();
        assert_eq!(again, spaced);
        assert_eq!(spaced.hash.len(), 16);
        let owner = spaced.topology.owners();
        assert_eq!((owner[8191], owner[8192]), (Some(0), Some(1)));
        let m = &spaced.topology.members().next().unwrap().1;
        assert!(m.hosts().eq(["10.0.0.1", "h00"]));
        assert_eq!(
            compact(r#"{ "a b\"": "c \\" , "d": 1 }"#),
            r#"{"a b\"":"c \\","d":1}"#
        );
        let slots: SlotSet = [1, 2, 3, 7, 16_383].into_iter().collect();
        let expected = [SlotRange(1, 3), SlotRange(7, 7), SlotRange(16_383, 16_383)];
        assert_eq!(ranges(&slots), expected);
        assert_eq!(slot_set(&expected), slots);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            (r#""clusterID":"c""#, r#""clusterID":"""#, "clusterID: "),
            (r#""epoch":7"#, r#""epoch":0"#, "epoch: "),
            (r#""epoch":7"#, r#""epoch":-1"#, "topology: "),
            (r#""name":"1","#, r#""name":"0","#, "shards[1].name: "),
            ("[[0,8191]]", "[[0,16384]]", "shards[0].slots[0]: "),
            ("[[0,8191]]", "[[9,8]]", "shards[0].slots[0]: "),
            (
                "[[0,8191]]",
                "[[0,8191],[8191,8191]]",
                "shards[0].slots[1]: ",
            ),
            ("[[0,8191]]", "[[0,8192]]", "shards[1].slots: slot 8192"),
            ("main-1-1", "main-0-1", "shards[1].members[1].name: "),
            (
                r#""dataID":"d01","role":"Replica""#,
                r#""dataID":"d01","role":"Primary""#,
                "shards[0].members[1].role: ",
            ),
            (r#""Learner""#, r#""King""#, "topology: "),
            ("h01", "h 01", "shards[0].members[1].host: "),
            (r#""to":"1""#, r#""to":"2""#, "moves[0].to: "),
            (r#""to":"1""#, r#""to":"0""#, "moves[0].to: "),
            ("[20,29]", "[9000,9001]", "moves[0].slots: slot 9000"),
        ];
        for (from, to, says) in table {
            let base = TWO.replace(r#""dataID":"","role":"Replica""#, r#""role":"Learner""#);
            let text = base.replacen(from, to, 1);
            assert_ne!(text, base, "{from}");
            let error = Known::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(says), "{to}: {error}");
        }
    }

    #[test]
    fn new_owners_are_who_took_our_slots() {
        let before = two();
        let mut next = two();
        next.shards[0].slots = vec![SlotRange(10, 19), SlotRange(30, 8191)];
        next.shards[1].slots = vec![SlotRange(0, 9), SlotRange(20, 29), SlotRange(8192, 16383)];
        let names = |shard| -> Vec<String> {
            let owners = new_owners(&before, &next, shard);
            owners.iter().map(|m| m.name.clone()).collect()
        };
        assert_eq!(names("0"), ["main-1-0"]);
        assert!(names("1").is_empty());
        assert!(new_owners(&before, &before, "0").is_empty());
    }

    #[test]
    fn a_new_primary_changes_roles_and_keeps_the_rest() {
        let text = TWO.replacen(r#""moves""#, r#""novel":{"z":1},"moves""#, 1);
        let known = Known::parse(text.as_bytes()).unwrap();
        let seen = |id: &str| Present {
            data_id: id.into(),
            address: Some(IpAddr::from([10, 0, 0, 9])),
        };
        let present = BTreeMap::from([
            ("main-0-0".to_owned(), seen("d00")),
            ("main-0-1".to_owned(), seen("new")),
        ]);
        let next = with_new_primary(&known, "0", "main-0-1", &present).unwrap();
        assert_eq!(next.topology.epoch, 8);
        assert!(next.json.contains(r#""novel":{"z":1}"#));
        let mut expected = known.topology.clone();
        expected.epoch = 8;
        expected.shards[0].members[0].role = MemberRole::Replica;
        expected.shards[0].members[0].address = Some("10.0.0.9".into());
        expected.shards[0].members[1].role = MemberRole::Primary;
        expected.shards[0].members[1].data_id = "new".into();
        assert_eq!(next.topology, expected);
    }
}
