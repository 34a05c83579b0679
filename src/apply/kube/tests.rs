//! What is sent to the API server, and what its answers mean.

use http::{Request, Response};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::client::Body;
use serde_json::json;
use tower_test::mock::{self, Handle};

use super::*;

type Server = Handle<Request<Body>, Response<Body>>;

fn writer() -> (Writer, Server) {
    let (service, server) = mock::pair::<Request<Body>, Response<Body>>();
    let writer = Writer {
        client: Client::new(service, "default"),
        timeout: Duration::from_secs(5),
    };
    (writer, server)
}

/// Answers the next request, and returns its method, path and body.
async fn next(server: &mut Server, code: u16, answer: Value) -> (String, String, Value) {
    let (request, send) = server.next_request().await.expect("a request");
    let (parts, body) = request.into_parts();
    let bytes = body.collect_bytes().await.expect("a body");
    let response = Response::builder()
        .status(code)
        .body(Body::from(answer.to_string().into_bytes()));
    send.send_response(response.expect("a response"));
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    (parts.method.to_string(), parts.uri.path().to_string(), body)
}

fn refusal(code: u16, message: &str) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Forbidden",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": reason})
}

fn map(uid: &str, version: &str, data: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "larder-topology", "namespace": "kitchen", "uid": "m", "resourceVersion": version,
            "ownerReferences": [{"apiVersion": "x/v1", "kind": "Cache", "name": "larder", "uid": uid, "controller": true}],
        },
        "data": {"k": data},
    }))
    .unwrap()
}

fn built(uid: &str, data: &str) -> ConfigMap {
    let mut built = map(uid, "", data);
    (built.metadata.uid, built.metadata.resource_version) = (None, None);
    built
}

fn index() -> Index<ConfigMap> {
    Index::new(|_| None)
}

#[tokio::test]
async fn a_swap_names_the_version_that_it_replaces_and_a_conflict_is_no_error() {
    let (writer, mut server) = writer();
    let object = map("u", "41", "a");
    let call = tokio::spawn({
        let (writer, object) = (writer.clone(), object.clone());
        async move {
            writer
                .swap_status(&object, json!({"topology": {"epoch": 2}}))
                .await
        }
    });
    let (method, path, body) = next(
        &mut server,
        409,
        refusal(409, "the object has been modified"),
    )
    .await;
    assert_eq!(method, "PATCH");
    assert_eq!(
        path,
        "/api/v1/namespaces/kitchen/configmaps/larder-topology/status"
    );
    assert_eq!(
        body,
        json!({"metadata": {"resourceVersion": "41"}, "status": {"topology": {"epoch": 2}}})
    );
    let (stored, written) = call.await.unwrap().unwrap();
    assert_eq!((stored, written), (Stored::Conflict, None));

    let call = tokio::spawn(async move { writer.swap_status(&object, json!({})).await });
    next(
        &mut server,
        200,
        serde_json::to_value(map("u", "42", "a")).unwrap(),
    )
    .await;
    let (stored, written) = call.await.unwrap().unwrap();
    assert_eq!(stored, Stored::Yes);
    assert_eq!(written.unwrap().resource_version().as_deref(), Some("42"));
}

#[tokio::test]
async fn what_is_there_is_not_written_and_what_is_not_is_applied() {
    let (writer, mut server) = writer();
    let index = index();
    let wanted = built("u", "a");
    let call = tokio::spawn({
        let (writer, index, wanted) = (writer.clone(), index.clone(), wanted.clone());
        async move { writer.ensure(&index, &wanted).await }
    });
    let (method, _, _) = next(&mut server, 404, refusal(404, "not found")).await;
    assert_eq!(method, "GET");
    let mut stored = stamped(&wanted).unwrap();
    stored["metadata"]["uid"] = json!("m");
    stored["metadata"]["resourceVersion"] = json!("1");
    let (method, _, body) = next(&mut server, 200, stored).await;
    assert_eq!(
        (method.as_str(), &body["data"]["k"]),
        ("PATCH", &json!("a"))
    );
    call.await.unwrap().unwrap();
    // Now it is known: the mock, which answers nothing more, would hang.
    writer.ensure(&index, &wanted).await.unwrap();
    let call = tokio::spawn(async move { writer.ensure(&index, &built("u", "b")).await });
    let (method, _, body) = next(
        &mut server,
        200,
        serde_json::to_value(map("u", "2", "b")).unwrap(),
    )
    .await;
    assert_eq!(
        (method.as_str(), &body["data"]["k"]),
        ("PATCH", &json!("b"))
    );
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn anothers_object_is_left_alone() {
    let (writer, mut server) = writer();
    let index = index();
    let call = tokio::spawn(async move { writer.ensure(&index, &built("u", "a")).await });
    let foreign = serde_json::to_value(map("someone", "5", "theirs")).unwrap();
    next(&mut server, 200, foreign).await;
    let error = call.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("larder-topology exists and is not this Cache's"),
        "{error}"
    );
}

#[tokio::test]
async fn a_password_that_is_there_stays() {
    let (writer, mut server) = writer();
    let secret = |data: Value| -> Secret {
        let secret = json!({"metadata": {"name": "larder-auth", "namespace": "kitchen", "labels": {"a": "b"}}, "data": data});
        serde_json::from_value(secret).unwrap()
    };
    let wanted = secret(json!({"password": "bmV3"}));
    let stored = secret(json!({"password": "b2xk"}));
    let call =
        tokio::spawn(async move { writer.ensure_once(&Index::new(|_| None), &wanted).await });
    next(&mut server, 200, serde_json::to_value(&stored).unwrap()).await;
    let (method, _, body) = next(&mut server, 200, serde_json::to_value(&stored).unwrap()).await;
    assert_eq!(
        (method.as_str(), body),
        ("PATCH", json!({"metadata": {"labels": {"a": "b"}}}))
    );
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_namespace_that_goes_away_is_known_by_its_refusal() {
    let (writer, mut server) = writer();
    let call = tokio::spawn(async move { writer.ensure(&index(), &built("u", "a")).await });
    next(&mut server, 404, refusal(404, "not found")).await;
    let message = r#"configmaps "larder-topology" is forbidden: unable to create new content in namespace kitchen because it is being terminated"#;
    next(&mut server, 403, refusal(403, message)).await;
    let error = call.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::NamespaceTerminating(name) if name == "kitchen"),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_not_waited_for_for_ever_and_its_outcome_is_unknown() {
    let (writer, mut server) = writer();
    let call =
        tokio::spawn(async move { writer.swap_status(&map("u", "1", "a"), json!({})).await });
    let _held = server.next_request().await.expect("a request");
    let error = call.await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Timeout { seconds: 5, .. }),
        "{error:?}"
    );
    assert!(!error.surely_not_done());
}
