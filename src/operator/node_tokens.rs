//! Whose token it is with which an agent on a node enrols: the API server is asked by TokenReview. Only
//! a token of our audience, of the agents' ServiceAccount, and made for a pod on a node is good.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::timeout;

use crate::domain::names::ObjectKey;
use crate::fleet::nodes::{NodeTokenError, NodeTokens};

/// Whom the token is for: one that was made for the API server, or for anybody else, is none of ours.
pub const AUDIENCE: &str = "seawall-fleet";
/// What the API server knows of the pod that a token is bound to.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Less than an enrolment may take.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct TokenReviews {
    pub client: Client,
    /// The ServiceAccount of the agents on nodes.
    pub account: ObjectKey,
}

#[async_trait]
impl NodeTokens for TokenReviews {
    async fn node_of(&self, token: &str) -> Result<String, NodeTokenError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = timeout(PATIENCE, reviews.create(&params, &review)).await;
        let review = match answer {
            Ok(Ok(review)) => review,
            Ok(Err(error)) => return Err(unavailable(&error)),
            Err(_) => {
                let why = "the API server did not say within 5 s whose token it is";
                return Err(NodeTokenError::Unavailable(why.to_owned()));
            }
        };
        judge(&review.status.unwrap_or_default(), &self.account).map_err(NodeTokenError::Refused)
    }
}

fn unavailable(error: &kube::Error) -> NodeTokenError {
    NodeTokenError::Unavailable(match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the operator may not ask the API server whose token it is: bind the chart's ClusterRole seawall-token-reviews to its ServiceAccount ({})",
            status.message
        ),
        error => format!("the API server does not say whose token it is ({error})"),
    })
}

/// The node, or why there is none.
fn judge(status: &TokenReviewStatus, account: &ObjectKey) -> Result<String, String> {
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().unwrap_or("it gives no reason");
        return Err(format!(
            "the API server refuses it ({why}); it has to be a projected ServiceAccount token with the audience {AUDIENCE}"
        ));
    }
    let audiences = status.audiences.iter().flatten();
    if !audiences.into_iter().any(|audience| audience == AUDIENCE) {
        return Err(format!(
            "it is not for us: ask for it with the audience {AUDIENCE}"
        ));
    }
    let user = status.user.clone().unwrap_or_default();
    let wanted = format!(
        "system:serviceaccount:{}:{}",
        account.namespace, account.name
    );
    let found = user.username.unwrap_or_default();
    if found != wanted {
        return Err(format!(
            "it is {found}'s, and agents on nodes have the ServiceAccount {account}"
        ));
    }
    let extra = user.extra.unwrap_or_default();
    match extra.get(NODE_NAME).map(Vec::as_slice) {
        Some([node]) if !node.is_empty() => Ok(node.clone()),
        _ => Err(
            "it is bound to no pod on a node: mount it into the agent's pod as a projected token (Kubernetes 1.30 or later says the node's name)"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ACCOUNT: &str = "system:serviceaccount:seawall-system:seawall-agent";

    fn account() -> ObjectKey {
        ObjectKey::new("seawall-system", "seawall-agent")
    }

    /// As the API server answers for a token of a pod on worker-1.
    fn good() -> Value {
        json!({
            "authenticated": true,
            "audiences": [AUDIENCE],
            "user": {
                "username": ACCOUNT,
                "uid": "1",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "extra": {
                    "authentication.kubernetes.io/credential-id": ["JTI=1"],
                    "authentication.kubernetes.io/node-name": ["worker-1"],
                    "authentication.kubernetes.io/pod-name": ["seawall-agent-x"],
                },
            },
        })
    }

    fn judged(status: Value) -> Result<String, String> {
        judge(
            &serde_json::from_value(status).expect("a status"),
            &account(),
        )
    }

    #[test]
    fn the_node_is_what_the_api_server_says_it_is() {
        assert_eq!(judged(good()).as_deref(), Ok("worker-1"));
    }

    #[test]
    fn a_token_of_no_agent_on_a_node_is_refused_with_the_reason() {
        type Spoil = fn(&mut Value);
        let cases: [(Spoil, &str); 9] = [
            (|s| s["authenticated"] = json!(false), "gives no reason"),
            (
                |s| *s = json!({"error": "service account token has expired"}),
                "has expired",
            ),
            (|s| *s = json!({}), "projected ServiceAccount token"),
            (|s| s["audiences"] = json!(["https://api"]), "not for us"),
            (|s| s["audiences"] = Value::Null, "audience seawall-fleet"),
            (
                |s| s["user"]["username"] = json!("system:serviceaccount:plant:seawall-agent"),
                "ServiceAccount seawall-system/seawall-agent",
            ),
            (|s| s["user"] = Value::Null, "agents on nodes have"),
            (|s| s["user"]["extra"] = json!({}), "no pod on a node"),
            (
                |s| s["user"]["extra"][NODE_NAME] = json!(["a", "b"]),
                "no pod on a node",
            ),
        ];
        for (spoil, words) in cases {
            let mut status = good();
            spoil(&mut status);
            let why = judged(status).expect_err(words);
            assert!(why.contains(words), "{words}: {why}");
        }
    }

    #[tokio::test]
    async fn an_api_server_that_does_not_answer_refuses_nobody() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", nobody.local_addr().expect("its address"));
        drop(nobody);
        let config = kube::Config::new(url.parse().expect("a URL"));
        let reviews = TokenReviews {
            client: Client::try_from(config).expect("a client"),
            account: account(),
        };
        let answer = reviews.node_of("token").await;
        let Err(NodeTokenError::Unavailable(why)) = answer else {
            panic!("{answer:?}");
        };
        assert!(why.contains("the API server does not say"), "{why}");
    }
}
