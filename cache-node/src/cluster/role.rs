//! What a node is by a topology: pure decisions.

use thiserror::Error;

use super::topology::{Known, Member, MemberRole, Topology};

/// What decides a node's role beside the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Myself<'a> {
    pub member: &'a str,
    pub data_id: &'a str,
    /// It holds no whole copy of its shard's data: neither bootstrapped nor synced.
    pub fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Role {
    #[default]
    None,
    Primary,
    Replica,
    Learner,
}

impl Role {
    /// Whether it follows a primary.
    pub fn follows(self) -> bool {
        matches!(self, Self::Replica | Self::Learner)
    }
}

/// A node's part in its shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    pub role: Role,
    /// Empty: in no shard.
    pub shard: String,
    /// Why the role is `None`.
    pub waiting_for: String,
    /// Whom a replica or learner follows.
    pub primary: Option<Member>,
}

pub fn decide_role(topology: &Topology, me: Myself<'_>) -> Part {
    let Some((shard, entry)) = topology.find(me.member) else {
        let waiting_for = format!("a topology that lists {}", me.member);
        return Part {
            waiting_for,
            ..Part::default()
        };
    };
    let part = |role, waiting_for: String| Part {
        role,
        shard: shard.name.clone(),
        waiting_for,
        primary: match role {
            Role::Replica | Role::Learner => shard.primary().cloned(),
            _ => None,
        },
    };
    let known = entry.data_id == me.data_id;
    match (entry.role, known) {
        (MemberRole::Primary, true) if !me.fresh || shard.bootstrap => {
            part(Role::Primary, String::new())
        }
        (MemberRole::Primary, true) => part(
            Role::None,
            "a topology: this one makes it primary, but it holds no data and its shard is not to be bootstrapped".into(),
        ),
        (MemberRole::Primary, false) => part(
            Role::None,
            format!(
                "a newer topology: epoch {} has {} as primary with data {:?}, but its memory began anew as {:?}",
                topology.epoch, me.member, entry.data_id, me.data_id
            ),
        ),
        (MemberRole::Replica, true) => part(Role::Replica, String::new()),
        (MemberRole::Learner, _) | (MemberRole::Replica, false) => part(Role::Learner, String::new()),
    }
}

/// Why a topology is not taken. The first word is the error code that the sender sees.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error(
        "STALEEPOCH epoch {offered} is older than epoch {held} here: push the present topology"
    )]
    Older { offered: u64, held: u64 },
    #[error(
        "STALEEPOCH epoch {epoch} is here with other content (hash {held}, offered {offered}): two write the topology; take a higher epoch"
    )]
    OtherContent {
        epoch: u64,
        held: String,
        offered: String,
    },
    #[error(
        "FOREIGNDATA this node belongs to cluster {held:?}, not to {offered:?}: start it anew, or push its own cluster's topology"
    )]
    Foreign { offered: String, held: String },
    #[error(
        "NOTSYNCED {member} holds no whole copy of shard {shard:?}: make a synced member primary, or set the shard's bootstrap"
    )]
    NotSynced { member: String, shard: String },
}

/// Whether a topology is to be taken: `Ok(false)` when it is the present one.
pub fn admit(held: Option<&Known>, offered: &Known, me: Myself<'_>) -> Result<bool, Refusal> {
    let next = &offered.topology;
    if let Some(held) = held {
        let present = &held.topology;
        if present.cluster_id != next.cluster_id {
            return Err(Refusal::Foreign {
                offered: next.cluster_id.clone(),
                held: present.cluster_id.clone(),
            });
        }
        if next.epoch < present.epoch {
            return Err(Refusal::Older {
                offered: next.epoch,
                held: present.epoch,
            });
        }
        if next.epoch == present.epoch {
            if offered.hash == held.hash {
                return Ok(false);
            }
            return Err(Refusal::OtherContent {
                epoch: next.epoch,
                held: held.hash.clone(),
                offered: offered.hash.clone(),
            });
        }
    }
    if let Some((shard, entry)) = next.find(me.member)
        && entry.role == MemberRole::Primary
        && entry.data_id == me.data_id
        && me.fresh
        && !shard.bootstrap
    {
        return Err(Refusal::NotSynced {
            member: me.member.to_owned(),
            shard: shard.name.clone(),
        });
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::topology::tests::{TWO, two};
    use super::*;

    fn me<'a>(member: &'a str, data_id: &'a str, fresh: bool) -> Myself<'a> {
        Myself {
            member,
            data_id,
            fresh,
        }
    }

    #[test]
    fn roles_follow_name_data_and_freshness() {
        let mut bootstrap = two();
        bootstrap.shards[0].bootstrap = true;
        let mut learner = two();
        learner.shards[0].members[1].role = MemberRole::Learner;
        let plain = two();
        let table = [
            (&plain, me("main-0-0", "d00", false), Role::Primary, None),
            (&plain, me("main-0-0", "d00", true), Role::None, None),
            (&bootstrap, me("main-0-0", "d00", true), Role::Primary, None),
            // Restarted with empty memory: another data ID is never primary, bootstrap or not.
            (&plain, me("main-0-0", "dXX", true), Role::None, None),
            (&bootstrap, me("main-0-0", "dXX", true), Role::None, None),
            (
                &plain,
                me("main-0-1", "d01", false),
                Role::Replica,
                Some("main-0-0"),
            ),
            (
                &plain,
                me("main-0-1", "d01", true),
                Role::Replica,
                Some("main-0-0"),
            ),
            (
                &plain,
                me("main-0-1", "dXX", true),
                Role::Learner,
                Some("main-0-0"),
            ),
            (
                &learner,
                me("main-0-1", "d01", false),
                Role::Learner,
                Some("main-0-0"),
            ),
            (
                &plain,
                me("main-1-1", "any", true),
                Role::Learner,
                Some("main-1-0"),
            ),
            (&plain, me("main-9-9", "d00", false), Role::None, None),
        ];
        for (topology, me, role, primary) in table {
            let part = decide_role(topology, me);
            assert_eq!(part.role, role, "{me:?}");
            let follows = part.primary.as_ref().map(|m| m.name.as_str());
            assert_eq!(follows, primary, "{me:?}");
            assert_eq!(part.waiting_for.is_empty(), role != Role::None, "{me:?}");
        }
    }

    #[test]
    fn topologies_are_taken_by_epoch_and_cluster() {
        let at = |epoch: u64| {
            let text = TWO.replacen(r#""epoch":7"#, &format!(r#""epoch":{epoch}"#), 1);
            Known::parse(text.as_bytes()).unwrap()
        };
        let held = at(7);
        let full = me("main-0-0", "d00", false);
        assert_eq!(admit(None, &held, full), Ok(true));
        assert_eq!(admit(Some(&held), &at(7), full), Ok(false));
        assert_eq!(admit(Some(&held), &at(8), full), Ok(true));
        let older = admit(Some(&held), &at(6), full).unwrap_err().to_string();
        assert!(older.starts_with("STALEEPOCH epoch 6"), "{older}");
        let text = TWO.replacen("h01", "h02", 1);
        let other = Known::parse(text.as_bytes()).unwrap();
        let error = admit(Some(&held), &other, full).unwrap_err().to_string();
        assert!(error.starts_with("STALEEPOCH epoch 7 is here"), "{error}");
        let text = TWO.replacen(
            r#""clusterID":"c","epoch":7"#,
            r#""clusterID":"x","epoch":9"#,
            1,
        );
        let foreign = Known::parse(text.as_bytes()).unwrap();
        let error = admit(Some(&held), &foreign, full).unwrap_err().to_string();
        assert!(error.starts_with("FOREIGNDATA"), "{error}");
        let fresh = me("main-0-0", "d00", true);
        let error = admit(Some(&held), &at(8), fresh).unwrap_err().to_string();
        assert!(error.starts_with("NOTSYNCED main-0-0"), "{error}");
        // Under another data ID it is not made primary, so there is nothing to refuse.
        assert_eq!(
            admit(Some(&held), &at(8), me("main-0-0", "dXX", true)),
            Ok(true)
        );
    }
}
