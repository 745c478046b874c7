//! `seawall explain`: the request that the admin socket answers, and the command that makes it.

pub mod command;
mod table;

use std::sync::Arc;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::routing::post;
use axum::{Json, Router};

use crate::domain::explain::{Explanation, Question};
use crate::local::Standings;
use crate::local::types::{INVALID, Problem};

/// A path of the admin socket beside those of the fleet. Who can open that socket sees everything.
pub fn router(standings: Arc<dyn Standings>) -> Router {
    Router::new()
        .route("/v1/explain", post(answer))
        .with_state(standings)
}

async fn answer(
    State(standings): State<Arc<dyn Standings>>,
    question: Result<Json<Question>, JsonRejection>,
) -> Result<Json<Explanation>, Problem> {
    let Json(question) = question.map_err(|rejection| Problem {
        code: INVALID.into(),
        message: rejection.body_text(),
    })?;
    Ok(Json(standings.explain(question).await?))
}
