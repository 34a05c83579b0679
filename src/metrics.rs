//! What the operator counts and measures, for Prometheus.

use std::sync::Mutex;
use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::platform::CacheKey;

/// All metrics; names begin with `cache_operator_`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub reconciles: IntCounterVec,
    pub reconcile_seconds: HistogramVec,
    pub steps: IntCounterVec,
    pub leader: IntGauge,
    pub undecodable: IntGaugeVec,
    pub watch_failures: IntCounterVec,
    phase: IntGaugeVec,
    waiting: IntGaugeVec,
    epoch: IntGaugeVec,
    connected: IntGaugeVec,
    /// The label values that were set for each Cache, so that they can be taken back.
    shown: Mutex<std::collections::BTreeMap<CacheKey, Shown>>,
}

/// What is shown of a Cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub phase: String,
    pub waiting: Vec<&'static str>,
    pub epoch: u64,
    pub members: usize,
    pub members_connected: usize,
}

const CACHE_LABELS: &[&str] = &["namespace", "cache"];

impl Metrics {
    pub fn new() -> prometheus::Result<Metrics> {
        let registry = Registry::new_custom(Some("cache_operator".into()), None)?;
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            prometheus::Result::Ok(vec)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            prometheus::Result::Ok(vec)
        };
        let seconds = HistogramVec::new(
            HistogramOpts::new("reconcile_duration_seconds", "How long reconciles took")
                .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0]),
            &["controller"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let leader = IntGauge::new("leader", "1 while this process leads")?;
        registry.register(Box::new(leader.clone()))?;
        let build = gauge(
            "build_info",
            "Always 1; labelled with the version",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Metrics {
            reconciles: counter(
                "reconciles_total",
                "Reconciles by result",
                &["controller", "result"],
            )?,
            reconcile_seconds: seconds,
            steps: counter(
                "steps_total",
                "Steps carried out, by kind and result",
                &["step", "result"],
            )?,
            leader,
            undecodable: gauge(
                "undecodable_objects",
                "Objects of a kind that cannot be read",
                &["kind"],
            )?,
            watch_failures: counter(
                "watch_failures_total",
                "Broken watches of the API server",
                &["kind"],
            )?,
            phase: gauge(
                "cache_phase",
                "1 for the phase that a Cache is in",
                &["namespace", "cache", "phase"],
            )?,
            waiting: gauge(
                "cache_waiting",
                "1 for each reason that a Cache waits for",
                &["namespace", "cache", "reason"],
            )?,
            epoch: gauge(
                "cache_topology_epoch",
                "The epoch of a Cache's stored topology",
                CACHE_LABELS,
            )?,
            connected: gauge(
                "cache_members",
                "Members of a Cache by whether their control connection is up",
                &["namespace", "cache", "connected"],
            )?,
            shown: Mutex::default(),
            registry,
        })
    }

    /// Shows a Cache; what was shown of it before and is not any more is taken back.
    pub fn show(&self, key: &CacheKey, now: Shown) {
        let mut shown = self
            .shown
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = shown.insert(key.clone(), now.clone());
        if before.as_ref() == Some(&now) {
            return;
        }
        if let Some(before) = before {
            self.take_back(key, &before);
        }
        let (namespace, cache) = (key.namespace.as_str(), key.name.as_str());
        self.phase
            .with_label_values(&[namespace, cache, &now.phase])
            .set(1);
        for reason in &now.waiting {
            self.waiting
                .with_label_values(&[namespace, cache, reason])
                .set(1);
        }
        self.epoch
            .with_label_values(&[namespace, cache])
            .set(i64::try_from(now.epoch).unwrap_or(i64::MAX));
        let up = i64::try_from(now.members_connected).unwrap_or(0);
        let all = i64::try_from(now.members).unwrap_or(0);
        self.connected
            .with_label_values(&[namespace, cache, "true"])
            .set(up);
        self.connected
            .with_label_values(&[namespace, cache, "false"])
            .set(all - up);
    }

    /// The Cache is gone.
    pub fn forget(&self, key: &CacheKey) {
        let mut shown = self
            .shown
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(before) = shown.remove(key) {
            self.take_back(key, &before);
        }
    }

    fn take_back(&self, key: &CacheKey, before: &Shown) {
        let (namespace, cache) = (key.namespace.as_str(), key.name.as_str());
        // An error says that the series is not there, which is what is wanted.
        let _ = self
            .phase
            .remove_label_values(&[namespace, cache, &before.phase]);
        for reason in &before.waiting {
            let _ = self
                .waiting
                .remove_label_values(&[namespace, cache, reason]);
        }
        let _ = self.epoch.remove_label_values(&[namespace, cache]);
        for connected in ["true", "false"] {
            let _ = self
                .connected
                .remove_label_values(&[namespace, cache, connected]);
        }
    }

    pub fn reconciled(&self, controller: &str, result: &str, took: Duration) {
        self.reconciles
            .with_label_values(&[controller, result])
            .inc();
        self.reconcile_seconds
            .with_label_values(&[controller])
            .observe(took.as_secs_f64());
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Type and labels of each family in docs/metrics.md's table of the operator.
    fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
        let docs = include_str!("../docs/metrics.md");
        let rows = docs
            .lines()
            .filter(|line| line.starts_with("| `cache_operator_"));
        rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            // Values follow a colon, up to the next label after a semicolon.
            let labels = cells[3].split(';').map(|part| match part.split_once(':') {
                Some((label, _)) => label.split('`').skip(1).step_by(2),
                None => part.split('`').skip(1).step_by(2),
            });
            let labels = labels.flatten().map(String::from).collect();
            let name = cells[1].trim_matches('`').to_string();
            (name, (cells[2].to_string(), labels))
        })
        .collect()
    }

    #[test]
    fn the_docs_describe_each_metric_with_its_type_and_labels() {
        let metrics = Metrics::new().unwrap();
        // Named one by one, so that a new one cannot be left out here: a family is shown once it has a sample.
        let Metrics {
            registry,
            reconciles: _,
            reconcile_seconds: _,
            steps,
            leader: _,
            undecodable,
            watch_failures,
            phase: _,
            waiting: _,
            epoch: _,
            connected: _,
            shown: _,
        } = &metrics;
        metrics.reconciled("cache", "done", Duration::from_millis(1));
        steps.with_label_values(&["WriteTopology", "done"]).inc();
        undecodable.with_label_values(&["Cache"]).set(1);
        watch_failures.with_label_values(&["Pod"]).inc();
        let key = CacheKey::new("team", "web");
        let shown = Shown {
            phase: "Ready".into(),
            waiting: vec!["Syncing"],
            ..Shown::default()
        };
        metrics.show(&key, shown);
        let exposed: BTreeMap<_, _> = registry
            .gather()
            .iter()
            .map(|family| {
                let kind = format!("{:?}", family.get_field_type()).to_lowercase();
                let labels = family.get_metric()[0].get_label().iter();
                let mut labels: BTreeSet<String> =
                    labels.map(|label| label.name().to_string()).collect();
                if kind == "histogram" {
                    labels.insert("le".into());
                }
                (family.name().to_string(), (kind, labels))
            })
            .collect();
        assert_eq!(exposed, documented());
    }

    #[test]
    fn a_cache_shows_its_present_state_only() {
        let metrics = Metrics::new().unwrap();
        let key = CacheKey::new("team", "web");
        let creating = Shown {
            phase: "Creating".into(),
            waiting: vec!["MembersStarting"],
            epoch: 1,
            members: 2,
            members_connected: 1,
        };
        metrics.show(&key, creating);
        let ready = Shown {
            phase: "Ready".into(),
            epoch: 2,
            members: 2,
            members_connected: 2,
            ..Shown::default()
        };
        metrics.show(&key, ready);
        let text = metrics.text().unwrap();
        assert!(
            text.contains(
                r#"cache_operator_cache_phase{cache="web",namespace="team",phase="Ready"} 1"#
            ),
            "{text}"
        );
        assert!(
            !text.contains("Creating") && !text.contains("MembersStarting"),
            "{text}"
        );
        assert!(
            text.contains(r#"cache_operator_cache_topology_epoch{cache="web",namespace="team"} 2"#)
        );
        metrics.forget(&key);
        assert!(!metrics.text().unwrap().contains("web"));
    }
}
