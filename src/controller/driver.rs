//! One round for one Cache: `observe → validate → plan → check → build → apply → status`, on any platform.

use std::time::Duration;

use crate::api::cache::{Cache, CacheStatus, Phase};
use crate::apply;
use crate::node::now_ms;
use crate::plan::steps::Told;
use crate::plan::{self, Plan, Waiting, check};
use crate::platform::{Error, Platform};
use crate::status::{self, Outcome};
use crate::validate;

/// When nothing is seen to change, things are looked at again nevertheless.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// After steps; what they change is seen sooner as a rule.
const AFTER_STEPS: Duration = Duration::from_secs(1);

/// What a round came to.
#[derive(Debug)]
pub struct Round {
    pub plan: Plan,
    pub status: CacheStatus,
    /// What the platform waits for, beside the plan.
    pub waiting: Vec<Waiting>,
    /// The step that failed, and why: try again, with patience.
    pub failed: Option<(String, String)>,
    /// When to look again although nothing is seen to change.
    pub again: Duration,
}

impl Round {
    /// Everything that is waited for.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().chain(&self.plan.waiting)
    }
}

/// Looks at a Cache and does what is to be done now.
///
/// # Errors
/// When not even the looking worked, or the status cannot be written.
pub async fn reconcile<P: Platform + ?Sized>(
    platform: &P,
    cache: &Cache,
    context: &validate::Context,
) -> Result<Round, Error> {
    let previous = cache.status.as_ref();
    let (desired, invalid) = match validate::cache(cache, context) {
        Ok(desired) => (desired, None),
        // What serves goes on being looked after.
        Err(invalid) => match validate::held(cache, context) {
            Some(held) => (held, Some(invalid)),
            None => return refuse(platform, cache, &invalid).await,
        },
    };
    let stored = previous.and_then(|status| status.topology.as_ref());
    // An object that cannot be made does not keep a lost primary from being replaced.
    let (waiting, unmade) = match platform.ensure(&desired, stored).await {
        Ok(waiting) => (waiting, None),
        Err(error) if error.ends_the_round() => return Err(error),
        Err(error) => {
            let failed = ("make its objects".to_owned(), error.to_string());
            (Vec::new(), Some(failed))
        }
    };
    let mut observed = platform.observe(&desired).await?;
    platform.hub().add_to(platform.key(), &mut observed);
    let now = now_ms();
    let plan = plan::plan(&desired, &observed, now);
    let violations = check::check(&desired, &observed, &plan, now);
    let applied = if violations.is_empty() {
        apply::run(platform, &desired, &plan.steps).await
    } else {
        withhold(platform, &plan, &violations)
    };
    let again = again(&plan, &applied, now_ms());
    let outcome = Outcome {
        waiting,
        failed: applied.failed.or(unmade),
    };
    let mut status = status::status(&desired, &observed, &plan, &outcome, previous, now);
    if let Some(invalid) = &invalid {
        tell_invalid(platform, previous, invalid);
        status = status::invalid(desired.generation, invalid, previous, now, Some(status));
    }
    platform.write_status(&status).await?;
    Ok(Round {
        waiting: outcome.waiting,
        failed: outcome.failed,
        plan,
        status,
        again,
    })
}

async fn refuse<P: Platform + ?Sized>(
    platform: &P,
    cache: &Cache,
    invalid: &validate::Invalid,
) -> Result<Round, Error> {
    let previous = cache.status.as_ref();
    let generation = cache.metadata.generation.unwrap_or_default();
    let status = status::invalid(generation, invalid, previous, now_ms(), None);
    tell_invalid(platform, previous, invalid);
    platform.write_status(&status).await?;
    Ok(Round {
        plan: Plan::default(),
        status,
        waiting: Vec::new(),
        failed: None,
        again: LOOK_AGAIN,
    })
}

fn tell_invalid<P: Platform + ?Sized>(
    platform: &P,
    previous: Option<&CacheStatus>,
    invalid: &validate::Invalid,
) {
    if previous.and_then(|status| status.phase) != Some(Phase::Invalid) {
        platform.tell(vec![Told {
            reason: "Invalid",
            message: invalid.to_string(),
            warning: true,
        }]);
    }
}

/// A plan that breaks a rule is a bug of the planner: nothing of it is carried out.
fn withhold<P: Platform + ?Sized>(
    platform: &P,
    plan: &Plan,
    violations: &[check::Violation],
) -> apply::Applied {
    let why: Vec<String> = violations.iter().map(ToString::to_string).collect();
    let why = why.join("; ");
    tracing::error!(cache = %platform.key(), %plan, why, "the plan breaks a rule and is withheld");
    apply::Applied {
        failed: Some((
            "carry out the plan".into(),
            format!("withheld, as it breaks a rule: {why}"),
        )),
        ..apply::Applied::default()
    }
}

fn again(plan: &Plan, applied: &apply::Applied, now_ms: u64) -> Duration {
    if applied.conflict || applied.learnt {
        return Duration::ZERO;
    }
    let usual = if applied.done > 0 {
        AFTER_STEPS
    } else {
        LOOK_AGAIN
    };
    let asked = plan
        .again_at_ms
        .map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
    asked.map_or(usual, |asked| asked.min(usual))
}
