//! What stands in front of the protocol: who calls. A key is hashed here and looked up by the operator
//! at each request, so that a scope that is disabled refuses at the next one. The key itself goes no
//! further. Requests then carry the [`Caller`] that the tools act for.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::Semaphore;

use super::metrics::Metrics;
use super::sessions::{KEY, Sessions};
use crate::access::{Principal, key};
use crate::local::client::Client;
use crate::local::types::{Problem, UNAVAILABLE};

const SESSION: &str = "mcp-session-id";
/// As JSON-RPC numbers it.
const PARSE_ERROR: i32 = -32700;
/// Requests that are being answered at one time; streams count until their first byte.
const MOST_AT_ONCE: usize = 512;

/// Who calls, on every request behind this layer.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Arc<Principal>,
    /// When the request came.
    pub arrived: Instant,
}

pub struct Front {
    operator: Client,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    room: Semaphore,
}

impl Front {
    pub fn new(operator: Client, sessions: Arc<Sessions>, metrics: Arc<Metrics>) -> Self {
        Self {
            operator,
            sessions,
            metrics,
            room: Semaphore::new(MOST_AT_ONCE),
        }
    }
}

pub async fn authenticate(
    State(front): State<Arc<Front>>,
    mut request: Request,
    next: Next,
) -> Response {
    let arrived = Instant::now();
    let Ok(_room) = front.room.try_acquire() else {
        return away("this MCP server is busy: try again in a moment");
    };
    let (key_hash, principal) = match caller(&front, request.headers()).await {
        Ok(caller) => caller,
        Err(refused) => return refused,
    };
    let session = request.headers().get(SESSION);
    if let Some(session) = session.and_then(|session| session.to_str().ok()) {
        if front.sessions.is_foreign(session, &key_hash) {
            // As for a session that doesn't exist: whether it does is not this key's business.
            return (StatusCode::NOT_FOUND, "Not Found: Session not found").into_response();
        }
    } else if front.sessions.is_full() && begins_session(request.headers()) {
        return away("this MCP server has too many sessions: try again in some minutes");
    }
    request.extensions_mut().insert(Caller {
        principal: Arc::new(principal),
        arrived,
    });
    KEY.scope(key_hash, next.run(request)).await
}

/// A body that is no message of the protocol is the caller's error in JSON-RPC's own terms, which its
/// client shows; the protocol's layer calls it an unsupported media type.
pub async fn explain_body(request: Request, next: Next) -> Response {
    let json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let response = next.run(request).await;
    if !json || response.status() != StatusCode::UNSUPPORTED_MEDIA_TYPE {
        return response;
    }
    let error = json!({
        "jsonrpc": "2.0",
        "id": null,
        "error": {
            "code": PARSE_ERROR,
            "message": "the body is no JSON-RPC message: send one object with jsonrpc, id, method and params",
        },
    });
    (StatusCode::BAD_REQUEST, Json(error)).into_response()
}

/// Requests of revisions without sessions name their revision.
fn begins_session(headers: &HeaderMap) -> bool {
    headers
        .get("mcp-protocol-version")
        .and_then(|version| version.to_str().ok())
        .is_none_or(|version| version < "2026-07-28")
}

async fn caller(front: &Front, headers: &HeaderMap) -> Result<(String, Principal), Response> {
    let key = match bearer(headers) {
        Ok(key) => key,
        Err(problem) => {
            front.metrics.key_refused(problem.reason());
            return Err(problem.into_response());
        }
    };
    let hash = key::hash(key);
    match front.operator.authenticate(hash.clone()).await {
        Ok(principal) => Ok((hash, principal)),
        Err(problem) if problem.code == UNAVAILABLE => Err(away(&problem.message)),
        Err(problem) => {
            let refused = Refused::ByOperator(problem);
            front.metrics.key_refused(refused.reason());
            Err(refused.into_response())
        }
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Refused> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Refused::Missing)?;
    if values.next().is_some() {
        return Err(Refused::Malformed);
    }
    value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim())
        .filter(|key| key::is_well_formed(key))
        .ok_or(Refused::Malformed)
}

/// A request without a key that works.
enum Refused {
    Missing,
    Malformed,
    ByOperator(Problem),
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::ByOperator(problem) => match problem.code.as_str() {
                "key_unknown" => "unknown",
                "key_disabled" => "disabled",
                "key_expired" => "expired",
                _ => "refused",
            },
        }
    }

    fn message(&self) -> String {
        let how = "send `Authorization: Bearer swk_...` with a key that a person made with \
                   `seawall keys create`";
        match self {
            Self::Missing => format!("this server needs a key: {how}"),
            Self::Malformed => format!("that is no Seawall key: {how}"),
            Self::ByOperator(problem) => problem.message.clone(),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let message = self.message();
        // Where nothing was offered, RFC 6750 wants no error code.
        let challenge = match self {
            Self::Missing => r#"Bearer realm="seawall""#.to_owned(),
            _ => format!(
                r#"Bearer realm="seawall", error="invalid_token", error_description="{}""#,
                quotable(&message)
            ),
        };
        let body = Json(json!({"error": "invalid_token", "error_description": message}));
        let mut response = (StatusCode::UNAUTHORIZED, body).into_response();
        let challenge = HeaderValue::from_str(&challenge).expect("quotable text is visible ASCII");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
        response
    }
}

/// What may stand in a quoted string of a header.
fn quotable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '"' | '`' => '\'',
            '\\' => '/',
            c if c == ' ' || c.is_ascii_graphic() => c,
            _ => '?',
        })
        .collect()
}

fn away(message: &str) -> Response {
    let body = Json(json!({"error": "temporarily_unavailable", "error_description": message}));
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = value.parse().expect("a header's value");
            headers.append(header::AUTHORIZATION, value);
        }
        headers
    }

    #[test]
    fn only_one_well_formed_bearer_key_is_taken() {
        let key = key::generate();
        let good = headers(&[&format!("bearer  {key}")]);
        assert_eq!(bearer(&good).ok(), Some(key.as_str()));
        let refused = |values: &[&str]| bearer(&headers(values)).err().map(|r| r.reason());
        assert_eq!(refused(&[]), Some("missing"));
        let twice = format!("Bearer {key}");
        for values in [
            &[twice.as_str(), &twice][..],
            &["Basic eDp5"],
            &["Bearer"],
            &[&key],
        ] {
            assert_eq!(refused(values), Some("malformed"), "{values:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do_and_its_challenge_is_a_header() {
        let problem = Problem {
            code: "key_disabled".into(),
            message: "\"disabled\" — ask\n".into(),
        };
        for refused in [
            Refused::Missing,
            Refused::Malformed,
            Refused::ByOperator(problem),
        ] {
            let offered = !matches!(refused, Refused::Missing);
            let response = refused.into_response();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            let challenge = response.headers()[header::WWW_AUTHENTICATE]
                .to_str()
                .expect("visible ASCII");
            assert!(challenge.starts_with("Bearer realm="), "{challenge}");
            assert_eq!(challenge.contains("error="), offered, "{challenge}");
        }
    }
}
