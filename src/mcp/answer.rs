//! What a tool answers: structured content with a short text, or a failure in words with the next
//! step. A failure goes back as a tool's error, which clients show to the model.

use rmcp::model::{CallToolResult, ContentBlock, MetaObject};
use serde::Serialize;
use serde_json::Value;

use super::text::clean;
use crate::access::Refusal;
use crate::local::types::{NOT_FOUND, Outcome, Problem, REFUSED_BY_API_SERVER};

/// Longer words of the API server say no more.
const MOST_WORDS: usize = 2000;

#[derive(Clone, Debug)]
pub struct Reply {
    pub structured: Value,
    pub text: String,
}

impl Reply {
    pub fn new<T: Serialize>(output: &T, text: impl Into<String>) -> Self {
        Self {
            structured: serde_json::to_value(output).expect("outputs are JSON"),
            text: text.into(),
        }
    }

    /// Gives a field of the structured content another value.
    pub fn set<T: Serialize>(&mut self, field: &str, value: &T) {
        self.structured[field] = serde_json::to_value(value).expect("outputs are JSON");
    }

    pub fn into_result(self) -> CallToolResult {
        let mut result = CallToolResult::structured(self.structured);
        result.content = vec![ContentBlock::text(self.text)];
        result
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Such as `outside_targets`; for programs.
    pub code: &'static str,
    pub message: String,
    pub kind: FailureKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The call can't be understood, or names what does not exist.
    Invalid,
    /// Our own decision.
    Refused,
    /// The API server's.
    RefusedByApiServer,
    /// Somebody who has to answer does not.
    Unavailable,
}

impl Failure {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new("invalid", message, FailureKind::Invalid)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not_found", message, FailureKind::Invalid)
    }

    pub fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, message, FailureKind::Refused)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new("unavailable", message, FailureKind::Unavailable)
    }

    fn new(code: &'static str, message: impl Into<String>, kind: FailureKind) -> Self {
        Self {
            code,
            message: message.into(),
            kind,
        }
    }

    /// What became of an action that failed so.
    pub fn outcome(&self) -> Outcome {
        match self.kind {
            FailureKind::Refused | FailureKind::RefusedByApiServer => Outcome::Refused,
            FailureKind::Invalid | FailureKind::Unavailable => Outcome::Failed,
        }
    }

    pub fn into_result(self) -> CallToolResult {
        let mut meta = MetaObject::default();
        meta.insert("seawall.dev/code".into(), self.code.into());
        CallToolResult::error(vec![ContentBlock::text(self.message)]).with_meta(Some(meta))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::refused(refusal.code.as_str(), refusal.message)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        if problem.code == NOT_FOUND {
            return Self::not_found(problem.message);
        }
        Self::unavailable(problem.message)
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            tracing::warn!(%error, "the API server did not answer");
            return Self::unavailable("the API server does not answer: try again in a moment");
        };
        let words = clean(&status.message, MOST_WORDS);
        match status.code {
            403 => Self::new(
                REFUSED_BY_API_SERVER,
                format!("the API server refused it: {words}"),
                FailureKind::RefusedByApiServer,
            ),
            400 | 422 => Self::new(
                REFUSED_BY_API_SERVER,
                format!("the API server refused what was to be written: {words}"),
                FailureKind::RefusedByApiServer,
            ),
            404 => Self::not_found(format!("the API server does not have it: {words}")),
            409 => Self::new(
                "conflict",
                format!("somebody changed it meanwhile, try again: {words}"),
                FailureKind::Unavailable,
            ),
            401 => {
                tracing::error!(message = %status.message, "the API server does not know this server's token");
                Self::unavailable(
                    "this MCP server's own token is not accepted by the API server: a person \
                     should look at the operator, which mints it",
                )
            }
            _ => Self::unavailable(format!("the API server failed, try again: {words}")),
        }
    }
}
