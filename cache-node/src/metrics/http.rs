//! The metrics port: `/metrics` for Prometheus, `/readyz` and `/livez` for whoever keeps the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::exposition;
use crate::node::{Node, now_ms};

/// The background thread, which takes every lock, does so ten times a second.
const STUCK_MS: u64 = 30_000;

/// Serves the metrics port until the runtime ends.
pub async fn serve(node: Arc<Node>, listener: TcpListener) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(ready))
        .route("/livez", get(live))
        .with_state(node);
    axum::serve(listener, router).await
}

async fn metrics(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let text = exposition::text(&node);
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
}

async fn ready(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    match readiness(&node) {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(waits_for) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("waiting for {waits_for}\n"),
        ),
    }
}

fn readiness(node: &Node) -> Result<(), String> {
    if node.is_stopping() {
        return Err("its end: the node stops".into());
    }
    node.cluster.readiness()
}

async fn live(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    let silent_ms = now_ms().saturating_sub(node.heartbeat_ms.load(Ordering::Relaxed));
    match silent_ms < STUCK_MS {
        true => (StatusCode::OK, "ok\n".into()),
        false => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no progress for {} s\n", silent_ms / 1000),
        ),
    }
}
