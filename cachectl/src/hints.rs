//! Errors with the next step in them.

use cache_operator::api::names::GROUP;

/// The error and its causes, and what to do about it where that is known.
pub fn explain(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    match hint(error, &text) {
        Some(hint) => format!("{text}\n  {hint}"),
        None => text,
    }
}

fn hint(error: &anyhow::Error, text: &str) -> Option<String> {
    if let Some(status) = error
        .chain()
        .find_map(|e| match e.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) => Some(status),
            _ => None,
        })
    {
        return of_status(status.code, &status.message);
    }
    let lower = text.to_lowercase();
    if error.chain().any(|e| {
        e.is::<kube::config::KubeconfigError>() || e.is::<kube::config::InferConfigError>()
    }) || lower.contains("kubeconfig")
    {
        return Some(
            "set KUBECONFIG to a cluster's kubeconfig; `make cluster` makes a cluster on this machine, and `--local` needs none".into(),
        );
    }
    if lower.contains("connect") && lower.contains("refused") || lower.contains("timed out") {
        return Some("the API server does not answer: is the cluster up, and is this its kubeconfig (`kubectl cluster-info`)?".into());
    }
    None
}

fn of_status(code: u16, message: &str) -> Option<String> {
    match code {
        401 => Some("the kubeconfig's credentials are not accepted: sign in again".into()),
        403 => Some(format!("ask for the right to read {GROUP} (kubectl create clusterrole cache-viewer --verb=get,list --resource=caches.{GROUP},cachebackups.{GROUP},cacheregions.{GROUP},events)")),
        // The API server's words for a kind that it does not know.
        404 if message.contains("could not find the requested resource") || message.contains("page not found") => {
            Some("the kind is not known to this cluster: install the operator (`helm install cache-operator charts/cache-operator`)".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, message: &str) -> anyhow::Error {
        let mut status = kube::core::Status::failure(message, "made up");
        status.code = code;
        anyhow::Error::from(kube::Error::Api(Box::new(status))).context("reading Caches")
    }

    #[test]
    fn each_common_failure_says_the_next_step() {
        for (error, step) in [
            (api(404, "404 page not found"), "helm install"),
            (api(403, "forbidden"), "cache-viewer"),
            (api(401, "Unauthorized"), "sign in"),
            (anyhow::anyhow!("failed to read kubeconfig"), "make cluster"),
            (
                anyhow::anyhow!("tcp connect error: Connection refused"),
                "kubectl cluster-info",
            ),
        ] {
            let told = explain(&error);
            assert!(told.contains(step), "{told}");
        }
        assert_eq!(explain(&anyhow::anyhow!("odd")), "odd");
    }
}
