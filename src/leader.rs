//! Leader election over a `Lease`: of several operators one acts, the others stand by with warm caches.
//!
//! The decision is [`Election::decide`], a pure function over the last seen record and a monotonic clock; [`run`] carries it out. A lease is
//! judged expired by how long *we* have seen it unchanged, never by comparing clocks of two machines. Holding the lease only avoids duplicated
//! work: what fences a stale leader is the compare-and-swap of the topology and its epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;

/// How long things take; the defaults are Kubernetes' own.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// After this long without a renewal others may take the lease.
    pub lease: Duration,
    /// A leader that could not renew for this long stops writing. Shorter than `lease`.
    pub renew_deadline: Duration,
    /// Between attempts to acquire or renew.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What a Lease says, as far as the election cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Empty: released.
    pub holder: String,
    pub duration: Duration,
    pub transitions: i32,
    pub resource_version: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// There is no Lease: create it.
    Create,
    /// Take it over (the swap fails if someone was faster).
    Take { transitions: i32 },
    /// It is ours: renew it.
    Renew { transitions: i32 },
    /// Someone else holds it.
    Wait,
    /// It was ours and is not any more, or could not be renewed in time: stop.
    Lost,
}

/// One candidate's view. All times are since an arbitrary start, from a monotonic clock.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    timing: Timing,
    seen: Option<(Record, Duration)>,
    renewed_at: Option<Duration>,
}

impl Election {
    pub fn new(me: impl Into<String>, timing: Timing) -> Self {
        Election {
            me: me.into(),
            timing,
            seen: None,
            renewed_at: None,
        }
    }

    /// Takes note of what the API server holds now.
    pub fn observe(&mut self, record: Option<Record>, now: Duration) {
        let unchanged = matches!((&self.seen, &record), (Some((old, _)), Some(new)) if old == new);
        if !unchanged {
            self.seen = record.map(|record| (record, now));
        }
    }

    /// Takes note of a successful write of ours, begun at `begun`.
    pub fn wrote(&mut self, record: Record, begun: Duration, now: Duration) {
        self.seen = Some((record, now));
        self.renewed_at = Some(begun);
    }

    /// Whether we lead.
    pub fn leads(&self) -> bool {
        self.renewed_at.is_some()
    }

    pub fn decide(&self, now: Duration) -> Move {
        if let Some(renewed_at) = self.renewed_at
            && now.saturating_sub(renewed_at) >= self.timing.renew_deadline
        {
            return Move::Lost;
        }
        match &self.seen {
            None if self.leads() => Move::Lost,
            None => Move::Create,
            Some((record, _)) if record.holder == self.me => Move::Renew {
                transitions: record.transitions,
            },
            Some(_) if self.leads() => Move::Lost,
            Some((record, since)) => {
                let expired = now.saturating_sub(*since) >= record.duration;
                if record.holder.is_empty() || expired {
                    Move::Take {
                        transitions: record.transitions.saturating_add(1),
                    }
                } else {
                    Move::Wait
                }
            }
        }
    }
}

/// Says whether this process may write; cheap to clone and to ask.
#[derive(Clone, Debug)]
pub struct Leadership {
    start: Instant,
    /// Milliseconds since `start` until which the lease is surely ours; 0 for never.
    valid_until_ms: Arc<AtomicU64>,
    leads: watch::Receiver<bool>,
}

impl Leadership {
    /// True while the lease is held and was renewed within the deadline, even if this process was stopped in between.
    pub fn may_write(&self) -> bool {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        now < self.valid_until_ms.load(Ordering::Acquire)
    }

    /// Resolves when the lease is held.
    pub async fn acquired(&mut self) {
        // An error means that the elector ended; then there is nothing to wait for but the end of the process.
        if self.leads.wait_for(|leads| *leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The writing side of [`Leadership`].
#[derive(Debug)]
pub struct Announcer {
    start: Instant,
    valid_until_ms: Arc<AtomicU64>,
    leads: watch::Sender<bool>,
}

/// A [`Leadership`] and who announces it.
pub fn leadership() -> (Announcer, Leadership) {
    let start = Instant::now();
    let valid_until_ms = Arc::new(AtomicU64::new(0));
    let (tx, rx) = watch::channel(false);
    (
        Announcer {
            start,
            valid_until_ms: valid_until_ms.clone(),
            leads: tx,
        },
        Leadership {
            start,
            valid_until_ms,
            leads: rx,
        },
    )
}

impl Announcer {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn renewed(&self, begun: Duration, deadline: Duration) {
        let until = u64::try_from((begun + deadline).as_millis()).unwrap_or(u64::MAX);
        self.valid_until_ms.store(until, Ordering::Release);
        self.leads.send_replace(true);
    }

    fn ended(&self) {
        self.valid_until_ms.store(0, Ordering::Release);
        self.leads.send_replace(false);
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the lease {lease} was lost: another operator leads now, or the API server could not be reached for {deadline:?}; this process ends and starts anew as standby"
    )]
    Lost { lease: String, deadline: Duration },
}

/// Where the Lease is and who we are.
#[derive(Clone, Debug)]
pub struct Settings {
    pub namespace: String,
    pub name: String,
    pub identity: String,
    pub timing: Timing,
}

/// Runs the election until `stop` resolves (then releases the lease) or the lease is lost.
pub async fn run(
    client: kube::Client,
    settings: Settings,
    announcer: Announcer,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let api: Api<Lease> = Api::namespaced(client, &settings.namespace);
    let mut election = Election::new(&settings.identity, settings.timing);
    let mut stop = std::pin::pin!(stop);
    loop {
        let step = attempt(&api, &settings, &mut election, &announcer);
        tokio::select! {
            biased;
            () = &mut stop => break,
            moved = step => if moved == Move::Lost {
                announcer.ended();
                let lease = format!("{}/{}", settings.namespace, settings.name);
                return Err(Error::Lost { lease, deadline: settings.timing.renew_deadline });
            },
        }
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(settings.timing.retry) => {}
        }
    }
    announcer.ended();
    release(&api, &settings, &election).await;
    Ok(())
}

/// One look and, if called for, one write.
async fn attempt(
    api: &Api<Lease>,
    settings: &Settings,
    election: &mut Election,
    announcer: &Announcer,
) -> Move {
    // Our own record is known from the last write; only a conflict makes us look again.
    if !election.leads() {
        match timed(settings, api.get_opt(&settings.name)).await {
            Ok(lease) => election.observe(lease.as_ref().map(record_of), announcer.now()),
            Err(error) => {
                tracing::warn!(%error, "cannot read the lease");
                return Move::Wait;
            }
        }
    }
    let decided = election.decide(announcer.now());
    let transitions = match decided {
        Move::Wait | Move::Lost => return decided,
        Move::Create => 0,
        Move::Take { transitions } | Move::Renew { transitions } => transitions,
    };
    let begun = announcer.now();
    let resource_version = election
        .seen
        .as_ref()
        .map(|(record, _)| record.resource_version.clone());
    let lease = lease_of(settings, &settings.identity, transitions, resource_version);
    let params = PostParams::default();
    let written = if decided == Move::Create {
        timed(settings, api.create(&params, &lease)).await
    } else {
        timed(settings, api.replace(&settings.name, &params, &lease)).await
    };
    match written {
        Ok(lease) => {
            if !election.leads() {
                tracing::info!(
                    lease = settings.name,
                    identity = settings.identity,
                    "leading"
                );
            }
            election.wrote(record_of(&lease), begun, announcer.now());
            announcer.renewed(begun, settings.timing.renew_deadline);
            decided
        }
        Err(error) => {
            tracing::warn!(%error, "cannot write the lease");
            look_again(api, settings, election, announcer).await
        }
    }
}

/// After a failed write: what does the Lease say, and is it still ours?
async fn look_again(
    api: &Api<Lease>,
    settings: &Settings,
    election: &mut Election,
    announcer: &Announcer,
) -> Move {
    if let Ok(lease) = timed(settings, api.get_opt(&settings.name)).await {
        election.observe(lease.as_ref().map(record_of), announcer.now());
    }
    match election.decide(announcer.now()) {
        Move::Lost => Move::Lost,
        _ => Move::Wait,
    }
}

/// Gives the lease up so that the standby need not wait for it to expire. Best effort: it expires anyway.
async fn release(api: &Api<Lease>, settings: &Settings, election: &Election) {
    let Some((record, _)) = election.seen.as_ref().filter(|_| election.leads()) else {
        return;
    };
    let mut lease = lease_of(
        settings,
        "",
        record.transitions,
        Some(record.resource_version.clone()),
    );
    if let Some(spec) = lease.spec.as_mut() {
        spec.lease_duration_seconds = Some(1);
    }
    match timed(
        settings,
        api.replace(&settings.name, &PostParams::default(), &lease),
    )
    .await
    {
        Ok(_) => tracing::info!(lease = settings.name, "released the lease"),
        Err(error) => tracing::warn!(%error, "cannot release the lease; it expires by itself"),
    }
}

async fn timed<T>(
    settings: &Settings,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, String> {
    let limit = settings.timing.renew_deadline / 2;
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn record_of(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or(0);
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        transitions: spec.lease_transitions.unwrap_or(0),
        resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

fn lease_of(
    settings: &Settings,
    holder: &str,
    transitions: i32,
    resource_version: Option<String>,
) -> Lease {
    let now = MicroTime(Timestamp::now());
    Lease {
        metadata: ObjectMeta {
            name: Some(settings.name.clone()),
            namespace: Some(settings.namespace.clone()),
            resource_version,
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_string()),
            lease_duration_seconds: i32::try_from(settings.timing.lease.as_secs()).ok(),
            lease_transitions: Some(transitions),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, version: &str) -> Record {
        Record {
            holder: holder.to_string(),
            duration: Duration::from_secs(15),
            transitions: 4,
            resource_version: version.to_string(),
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_a_candidate_does() {
        let take = Move::Take { transitions: 5 };
        let cases: &[(&str, Option<Record>, u64, u64, Move)] = &[
            // name, record, seen at, now, expected
            ("no lease", None, 0, 0, Move::Create),
            ("released", Some(record("", "1")), 0, 0, take.clone()),
            (
                "held by another",
                Some(record("bo", "1")),
                0,
                14,
                Move::Wait,
            ),
            (
                "unchanged for its duration",
                Some(record("bo", "1")),
                0,
                15,
                take,
            ),
            (
                "ours from before a restart",
                Some(record("ana", "1")),
                0,
                0,
                Move::Renew { transitions: 4 },
            ),
        ];
        for (name, seen, seen_at, now, expected) in cases {
            let mut election = Election::new("ana", Timing::default());
            election.observe(seen.clone(), seconds(*seen_at));
            assert_eq!(election.decide(seconds(*now)), *expected, "{name}");
        }
    }

    #[test]
    fn a_renewal_by_the_holder_restarts_the_wait() {
        let mut election = Election::new("ana", Timing::default());
        election.observe(Some(record("bo", "1")), seconds(0));
        election.observe(Some(record("bo", "1")), seconds(10));
        assert_eq!(election.decide(seconds(15)), Move::Take { transitions: 5 });
        election.observe(Some(record("bo", "2")), seconds(14));
        assert_eq!(election.decide(seconds(28)), Move::Wait);
        assert_eq!(election.decide(seconds(29)), Move::Take { transitions: 5 });
    }

    #[test]
    fn a_leader_stops_when_it_cannot_renew_or_another_took_over() {
        let mut election = Election::new("ana", Timing::default());
        election.wrote(record("ana", "7"), seconds(100), seconds(103));
        assert_eq!(
            election.decide(seconds(109)),
            Move::Renew { transitions: 4 }
        );
        // Counted from when the write began: the server may have stamped it then.
        assert_eq!(election.decide(seconds(110)), Move::Lost);

        election.wrote(record("ana", "8"), seconds(109), seconds(109));
        assert_eq!(
            election.decide(seconds(110)),
            Move::Renew { transitions: 4 }
        );
        election.observe(Some(record("bo", "9")), seconds(111));
        assert_eq!(election.decide(seconds(111)), Move::Lost);
        election.observe(None, seconds(112));
        assert_eq!(election.decide(seconds(112)), Move::Lost);
    }

    #[test]
    fn permission_to_write_ends_by_itself() {
        let (announcer, leadership) = leadership();
        assert!(!leadership.may_write());
        announcer.renewed(announcer.now(), Duration::from_secs(10));
        assert!(leadership.may_write());
        announcer.renewed(Duration::ZERO, Duration::ZERO);
        assert!(!leadership.may_write());
    }
}
