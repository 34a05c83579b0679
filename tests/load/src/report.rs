//! What went wrong, counted by kind, with the first few in full.

use std::collections::BTreeMap;

use redis::RedisError;
use serde_json::{Value, json};

/// Enough to see a pattern, few enough to read.
const SAMPLES_MAX: usize = 10;

#[derive(Default)]
pub struct Failures {
    by_kind: BTreeMap<String, u64>,
    samples: Vec<String>,
}

impl Failures {
    pub fn error(&mut self, key: &str, error: &RedisError) {
        let kind = match error.code() {
            Some(code) => code.to_owned(),
            None if error.is_timeout() => "timeout".to_owned(),
            None => format!("{:?}", error.kind()),
        };
        self.add(kind, format!("{key}: {error}"));
    }

    pub fn add(&mut self, kind: impl Into<String>, sample: String) {
        *self.by_kind.entry(kind.into()).or_default() += 1;
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(sample);
        }
    }

    pub fn merge(&mut self, other: Failures) {
        for (kind, count) in other.by_kind {
            *self.by_kind.entry(kind).or_default() += count;
        }
        self.samples.extend(other.samples);
        self.samples.truncate(SAMPLES_MAX);
    }

    pub fn total(&self) -> u64 {
        self.by_kind.values().sum()
    }

    pub fn json(&self) -> Value {
        json!({"total": self.total(), "byKind": self.by_kind, "samples": self.samples})
    }
}
