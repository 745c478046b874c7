//! How something that was just written stands, as tools answer it; and what would become of something
//! that is not written yet.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::Serialize;

use crate::access::span;
use crate::domain::names::ObjectKey;
use crate::local::Kind;
use crate::local::types::{Preview, Previewed, SettledQuery, Standing, Unwritten};
use crate::mcp::answer::Failure;
use crate::mcp::call::Call;
use crate::mcp::resources::Written;

/// The longest wait for what was written to be in force.
const SETTLE: Duration = Duration::from_secs(5);

/// A longer time than this is nobody's plan.
const LONGEST: Duration = Duration::from_secs(8760 * 3600);

/// How far it is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum InForce {
    /// A dry run.
    NotWritten,
    /// The operator did not accept it; message says why.
    NotAccepted,
    /// Nothing can enforce it; message says why.
    NotEnforceable,
    /// No enforcement point has read it back yet.
    Pending,
    /// Some have.
    Partial,
    /// Every connected one has.
    Everywhere,
    /// By a NetworkPolicy, unseen.
    Unseen,
    /// Written; the operator could not be asked in time.
    Unknown,
}

/// Enforcement points other than the target itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Points {
    pub matched: usize,
    /// Of these, how many have read it back.
    pub programmed: usize,
    /// How many are not connected now.
    pub offline: usize,
}

impl From<&Standing> for Points {
    fn from(standing: &Standing) -> Self {
        Self {
            matched: standing.matched,
            programmed: standing.programmed_points,
            offline: standing.offline,
        }
    }
}

pub fn in_force(standing: &Standing) -> InForce {
    let on_target = standing.self_programmed != Some(false);
    if !standing.accepted {
        InForce::NotAccepted
    } else if standing.programmed && on_target {
        InForce::Everywhere
    } else if standing.programmed_points > 0 || standing.self_programmed == Some(true) {
        InForce::Partial
    } else {
        InForce::Pending
    }
}

/// Waits until this version of the object is in force. An operator that can't be asked now does not
/// undo the write, so it is no failure of the action.
pub async fn written<K: Written>(call: &Call, kind: Kind, object: &K) -> Option<Standing> {
    asked(settled(call, kind, object, false, SETTLE).await)
}

/// How this version of the object stands now; none when the operator can't say.
pub async fn now<K: Written>(call: &Call, kind: Kind, object: &K) -> Option<Standing> {
    asked(settled(call, kind, object, false, Duration::ZERO).await)
}

/// Waits until the object, which was deleted or disabled in this version, is in force nowhere.
pub async fn lifted<K: Written>(call: &Call, kind: Kind, object: &K) -> Option<Standing> {
    asked(settled(call, kind, object, true, SETTLE).await)
}

async fn settled<K: Written>(
    call: &Call,
    kind: Kind,
    object: &K,
    gone: bool,
    patience: Duration,
) -> Result<Standing, Failure> {
    let query = SettledQuery {
        uid: object.uid().unwrap_or_default(),
        generation: object.meta().generation.unwrap_or_default(),
        gone,
        of_user: object.is_of_user(),
        timeout_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
    };
    let resource = ObjectKey::new(&call.principal.tenant, object.name_any());
    let standing = call.shared.operator.settled(kind, &resource, &query);
    Ok(standing.await?)
}

fn asked(standing: Result<Standing, Failure>) -> Option<Standing> {
    standing
        .inspect_err(|failure| {
            tracing::warn!(failure = failure.message, "how it stands is unknown")
        })
        .ok()
}

/// Refuses what the operator would not accept of this agent, such as a target that would cut the
/// operator itself; else, how many devices it would be for.
pub async fn preview(call: &Call, name: &str, resource: Unwritten) -> Result<usize, Failure> {
    let previewed = previewed(call, name, resource).await?;
    Ok(previewed.devices)
}

/// The same, with all that the operator says of it.
pub async fn previewed(call: &Call, name: &str, resource: Unwritten) -> Result<Previewed, Failure> {
    let tenant = &call.principal.tenant;
    let preview = Preview {
        written_by: call.principal.user.clone(),
        name: name.to_owned(),
        resource,
    };
    let previewed = call.shared.operator.preview(tenant, &preview).await?;
    if previewed.accepted {
        return Ok(previewed);
    }
    let failure = Failure::refused(
        "not_acceptable",
        format!("{}: {}", previewed.reason, previewed.message),
    );
    Err(call.refuse(failure).await)
}

/// When a `ttl` from now ends.
pub fn end_of(ttl: Option<&str>) -> Result<Option<(Duration, Timestamp)>, Failure> {
    let Some(ttl) = ttl else {
        return Ok(None);
    };
    let length = span::parse(ttl).map_err(|error| Failure::invalid(format!("ttl: {error}")))?;
    if length > LONGEST {
        return Err(Failure::invalid(
            "ttl is longer than a year, 8760h: leave it out for what has no end",
        ));
    }
    let end = SignedDuration::try_from(length)
        .ok()
        .and_then(|length| Timestamp::now().checked_add(length).ok())
        .ok_or_else(|| Failure::invalid("ttl: that is beyond all time"))?;
    // Resources hold whole seconds.
    let end = Timestamp::from_second(end.as_second()).unwrap_or(end);
    Ok(Some((length, end)))
}

/// "3 of 4 peers (1 offline)"
pub fn points_in_words(points: &Points, what: &str) -> String {
    let offline = match points.offline {
        0 => String::new(),
        offline => format!(" ({offline} offline)"),
    };
    format!(
        "{} of {} {what}{offline}",
        points.programmed, points.matched
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> Standing {
        Standing {
            uid: "u".into(),
            generation: 1,
            accepted: true,
            reason: String::new(),
            message: String::new(),
            programmed: false,
            self_programmed: Some(false),
            matched: 2,
            programmed_points: 0,
            offline: 0,
            connections_cut: 0,
            still_isolated_by: Vec::new(),
            pods: None,
            user: None,
            moments: None,
        }
    }

    #[test]
    fn a_standing_is_in_force_as_far_as_it_was_read_back() {
        let mut stands = standing();
        assert_eq!(in_force(&stands), InForce::Pending);
        stands.programmed_points = 1;
        assert_eq!(in_force(&stands), InForce::Partial);
        stands.programmed_points = 2;
        stands.programmed = true;
        assert_eq!(in_force(&stands), InForce::Partial, "not on the target");
        stands.self_programmed = Some(true);
        assert_eq!(in_force(&stands), InForce::Everywhere);
        stands.accepted = false;
        assert_eq!(in_force(&stands), InForce::NotAccepted);
    }

    #[test]
    fn a_ttl_ends_so_long_from_now() {
        let (length, end) = end_of(Some("30m")).expect("read").expect("an end");
        assert_eq!(length.as_secs(), 1800);
        let left = end.as_second() - Timestamp::now().as_second();
        assert!((1798..=1800).contains(&left), "{left}");
        assert_eq!(end_of(None), Ok(None));
        assert!(end_of(Some("8760h")).is_ok());
        for wrong in ["soon", "8761h", "999999h"] {
            assert!(end_of(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
