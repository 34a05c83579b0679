//! Events: what users read under `kubectl describe`. Published in the background, so that a slow API server holds no reconcile up.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::api::names::MANAGER;
use crate::leader::Leadership;
use crate::plan::steps::Told;

/// More than this many waiting to be published are dropped: they are for people.
const WAITING_MAX: usize = 1024;
/// The API server's bounds, in bytes.
const NOTE_MAX: usize = 1000;
const ACTION_MAX: usize = 120;

#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<(ObjectReference, Told)>,
}

impl Events {
    /// Publishes while this process leads; each within `timeout`, so that one that hangs does not silence the rest.
    pub fn start(
        client: Client,
        identity: &str,
        leadership: Leadership,
        timeout: Duration,
    ) -> Events {
        let reporter = Reporter {
            controller: MANAGER.into(),
            instance: Some(identity.into()),
        };
        let recorder = Recorder::new(client, reporter);
        let (queue, mut waiting) = mpsc::channel::<(ObjectReference, Told)>(WAITING_MAX);
        tokio::spawn(async move {
            while let Some((about, told)) = waiting.recv().await {
                if !leadership.may_write() {
                    continue;
                }
                let event = event(&told);
                match tokio::time::timeout(timeout, recorder.publish(&event, &about)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(%error, reason = told.reason, "event not published");
                    }
                    Err(_) => {
                        tracing::debug!(
                            reason = told.reason,
                            ?timeout,
                            "event not published in time"
                        );
                    }
                }
            }
        });
        Events { queue }
    }

    pub fn tell(&self, about: &ObjectReference, told: Told) {
        tracing::info!(
            namespace = about.namespace,
            name = about.name,
            reason = told.reason,
            warning = told.warning,
            message = told.message,
            "event"
        );
        if self.queue.try_send((about.clone(), told)).is_err() {
            tracing::debug!("too many events wait; one was dropped");
        }
    }
}

/// The recorder counts repetitions by action and reason alone; with the message in the action, different messages stay different events.
fn event(told: &Told) -> Event {
    Event {
        type_: match told.warning {
            true => EventType::Warning,
            false => EventType::Normal,
        },
        reason: told.reason.into(),
        note: Some(cut(&told.message, NOTE_MAX)),
        action: cut(&told.message, ACTION_MAX),
        secondary: None,
    }
}

fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.into();
    }
    let mut cut = text[..text.floor_char_boundary(bytes_max - 3)].to_string();
    cut.push('…');
    cut
}
