//! What a person can do about the reason of a condition, beyond what its message says.

const MENDS: &[(&[&str], &str)] = &[
    (
        &["Creating", "MembersStarting", "MembersNotReady"],
        "nothing, unless it lasts: then see `kubectl describe pod` of the member",
    ),
    (
        &["MemberProblem"],
        "see `kubectl describe pod` and `kubectl logs --previous` of the member that is named",
    ),
    (
        &["MemberUnreachable", "PrimaryUnreachable"],
        "see whether its node is Ready (`kubectl get nodes`) and whether a NetworkPolicy keeps the operator from port 7379",
    ),
    (
        &["SlotsUnserved"],
        "bring a member of the shard back: see the members below, and `kubectl describe pod` of them",
    ),
    (
        &["NoCandidate"],
        "bring one of the named members back; their copies are the only ones",
    ),
    (
        &["ForeignData"],
        "the members hold another cluster's data: remove them, or restore the status they belong to",
    ),
    (
        &["PushRefused"],
        "see the node's words above; a restart of that member with `kubectl delete pod` is safe if a replica is synced",
    ),
    (
        &["MoveFailed"],
        "it is tried again; if it lasts, see `kubectl logs` of the two primaries that are named",
    ),
    (
        &["NoRoom"],
        "raise spec.resources.limits.memory or spec.shards, or let keys expire",
    ),
    (
        &["RollStuck", "RollWaiting"],
        "correct spec (often spec.image); the roll goes on by itself from there",
    ),
    (
        &["SecretMissing"],
        "create the Secret with that key, or correct spec.auth.secret; the members start by themselves then",
    ),
    (
        &["StepFailed"],
        "it is tried again; if it lasts, the words after the colon are the API server's or the node's: see also `kubectl logs deploy/cache-operator -n cache-system`",
    ),
    (
        &["Paused"],
        "set spec.paused to false to let the operator act again",
    ),
    (&["InvalidSpec"], "correct the field that the message names"),
    (
        &["NewerImage"],
        "allow it with `kubectl annotate cache <name> cache.clusterdb.io/update=once`",
    ),
];

pub fn mend(reason: &str) -> Option<&'static str> {
    let found = MENDS.iter().find(|(reasons, _)| reasons.contains(&reason));
    found.map(|(_, mend)| *mend)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cache_operator::plan::WaitReason;
    use cache_operator::status::REASONS;

    use super::*;

    /// Nothing to do: it comes by itself, is well, or its message says it all.
    const NOTHING: &[&str] = &[
        "AdoptingTopology",
        "AsExpected",
        "Deleting",
        "MemberStopping",
        "MovingSlots",
        "Serving",
        "Settled",
        "SlotStats",
        "Stuck",
        "Syncing",
        "Working",
    ];

    #[test]
    fn each_reason_of_the_operator_has_its_mend_or_needs_none() {
        let told: BTreeSet<&str> = WaitReason::all()
            .map(WaitReason::as_str)
            .chain(REASONS.iter().copied())
            .collect();
        let mended = MENDS.iter().flat_map(|(reasons, _)| *reasons);
        let known: Vec<&str> = mended.chain(NOTHING).copied().collect();
        let once: BTreeSet<&str> = known.iter().copied().collect();
        assert_eq!(known.len(), once.len(), "a reason is named twice");
        // Both ways: a mend of a reason that is never told would never show.
        assert_eq!(once, told);
        for trouble in WaitReason::all().filter(|reason| reason.is_trouble()) {
            assert!(mend(trouble.as_str()).is_some(), "{trouble:?}");
        }
    }
}
