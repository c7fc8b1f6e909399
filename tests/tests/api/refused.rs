//! Children that the API server does not accept, though the `McpServer` is valid: policies, quotas, missing rights.

use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    apps::v1::Deployment,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use mcpscale_crds::v1alpha1::McpServer;
use mcpscale_tests::eventually;
use serde_json::{Value, json};

use super::support::{DEADLINE, NAMESPACE, Operator, cluster, condition, create};

/// What a person loses without it: the company's policy refuses the Deployment, and the status says that everything is
/// as declared.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_refuses_is_told_until_it_is_allowed() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    refuse_deployments(&client).await;
    let _operator = Operator::start(client.clone(), &[]);
    create(&client, "refused", &json!({})).await;
    let servers: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    let until = async |status: &str, reason: &str| {
        eventually(DEADLINE, &format!("Accepted={status}/{reason}"), || async {
            let server = servers.get("refused").await.map_err(|e| e.to_string())?;
            let found = condition(&server, "Accepted");
            if found == Some((status.to_owned(), reason.to_owned())) {
                Ok(server)
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await
        .unwrap()
    };
    let refused = until("False", "ApplyFailed").await;
    assert_eq!(condition(&refused, "Stalled").unwrap().0, "True");
    assert_eq!(condition(&refused, "Reconciling").unwrap().0, "False");
    let conditions = refused.status.unwrap().conditions;
    let message = &conditions.iter().find(|c| c.type_ == "Accepted").unwrap().message;
    assert!(
        message.contains("Deployment") && message.contains("ask the platform team"),
        "{message}"
    );

    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    bindings
        .delete("no-deployments", &DeleteParams::default())
        .await
        .unwrap();
    let allowed = until("True", "Valid").await;
    assert_eq!(condition(&allowed, "Stalled").unwrap().0, "False");
}

/// Puts a policy in force that refuses Deployments.
async fn refuse_deployments(client: &Client) {
    let policy = json!({
        "metadata": {"name": "no-deployments"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"],
            }]},
            "validations": [{"expression": "false", "message": "no Deployments here; ask the platform team"}],
        },
    });
    let binding = json!({
        "metadata": {"name": "no-deployments"},
        "spec": {"policyName": "no-deployments", "validationActions": ["Deny"]},
    });
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    policies
        .create(&PostParams::default(), &parsed(policy))
        .await
        .expect("the policy");
    bindings
        .create(&PostParams::default(), &parsed(binding))
        .await
        .expect("its binding");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let tried = parsed(json!({
        "metadata": {"name": "tried"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        },
    }));
    let trial = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    eventually(DEADLINE, "the policy is in force", || async {
        match deployments.create(&trial, &tried).await {
            Err(kube::Error::Api(status)) if status.message.contains("platform team") => Ok(()),
            other => Err(format!("{:?}", other.map(drop))),
        }
    })
    .await
    .expect("the policy holds");
}

fn parsed<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("an object")
}
