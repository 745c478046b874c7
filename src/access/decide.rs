//! The decision: what an agent means to do, its scope, and the circumstances in; yes or a refusal in
//! words out. It is pure. The list of tools is filtered by it, and every call is decided by it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Effect, Principal, Tool, span, targets};
use crate::api::Access;
use crate::domain::names::DeviceId;

/// What an agent means to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    pub tool: Tool,
    pub target: Target,
    /// For an isolation, and for a policy that cuts devices off as one does, how long it would last.
    pub lasts: Lasts,
    /// It would let through what was not let through before.
    pub allows: bool,
    /// It changes nothing.
    pub dry_run: bool,
}

impl Intent {
    /// Before anything is known of the target: for the list of tools, and when a call comes in.
    pub fn of(tool: Tool) -> Self {
        Self {
            tool,
            target: Target::Unresolved,
            lasts: Lasts::NotATime,
            allows: false,
            dry_run: false,
        }
    }
}

/// What would be acted on.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Not looked at yet, or nothing, as reads.
    Unresolved,
    Devices(BTreeSet<DeviceId>),
    /// The devices that carry all these tags, whichever they are, and these.
    Tagged {
        tags: BTreeMap<String, String>,
        devices: BTreeSet<DeviceId>,
    },
    /// Every device of the tenant, those to come included.
    Fleet,
    /// These pods of the tenant.
    Pods(BTreeSet<String>),
    /// The pods that it chooses, those to come included.
    Workloads(LabelSelector),
    /// A user of the tenant, by every name that is suspended.
    User {
        names: BTreeSet<String>,
        /// Of these, those of agents of Seawall.
        agents: BTreeSet<String>,
    },
    /// A resource that exists; `by` is the agent that its stamp names.
    Written {
        name: String,
        by: Option<String>,
    },
}

/// How long what is written lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// Nothing that the limit is about.
    NotATime,
    For(Duration),
    UntilDeleted,
}

/// What else the decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    pub now: Timestamp,
    pub calls: Rate,
    pub actions: Rate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    Within,
    Exceeded { retry_after: Duration },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Refuse(Refusal),
}

/// Why not, in words for the agent and the people behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalCode {
    KeyExpired,
    CallsPerMinute,
    ToolNotInScope,
    NeedsApproval,
    NoTargets,
    OutsideTargets,
    /// A user that nobody suspends, or that is the agent itself.
    ProtectedUser,
    NotItsOwn,
    EndRequired,
    TooLong,
    AllowNotInScope,
    ActionsPerHour,
}

impl RefusalCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyExpired => "key_expired",
            Self::CallsPerMinute => "calls_per_minute",
            Self::ToolNotInScope => "tool_not_in_scope",
            Self::NeedsApproval => "needs_approval",
            Self::NoTargets => "no_targets",
            Self::OutsideTargets => "outside_targets",
            Self::ProtectedUser => "protected_user",
            Self::NotItsOwn => "not_its_own",
            Self::EndRequired => "end_required",
            Self::TooLong => "too_long",
            Self::AllowNotInScope => "allow_not_in_scope",
            Self::ActionsPerHour => "actions_per_hour",
        }
    }
}

/// The type of [`decide`], so that a test can stand in for it and see what the API server refuses.
pub type Decide = fn(&Principal, &Intent, &Circumstances) -> Decision;

pub fn decide(principal: &Principal, intent: &Intent, circumstances: &Circumstances) -> Decision {
    let checks = [
        expiry(principal, circumstances),
        rate(
            RefusalCode::CallsPerMinute,
            "calls a minute",
            principal.limits.calls_per_minute,
            circumstances.calls,
        ),
        tool(principal, intent),
        approval(principal, intent),
        targets::refusal_of(principal, &intent.target),
        length(principal, intent),
        allowing(principal, intent),
        actions(principal, intent, circumstances),
    ];
    match checks.into_iter().flatten().next() {
        None => Decision::Allow,
        Some(refusal) => Decision::Refuse(refusal),
    }
}

pub(super) fn refusal(code: RefusalCode, message: String) -> Option<Refusal> {
    Some(Refusal { code, message })
}

/// The scope, as people name it.
pub(super) struct Scope<'a>(pub &'a Principal);

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeyScope {}/{}", self.0.tenant, self.0.agent)
    }
}

fn expiry(principal: &Principal, circumstances: &Circumstances) -> Option<Refusal> {
    let end = principal.expires_at?;
    if circumstances.now < end {
        return None;
    }
    refusal(
        RefusalCode::KeyExpired,
        format!(
            "the keys of {} expired at {end}: ask a person to move its expiresAt",
            Scope(principal)
        ),
    )
}

fn rate(code: RefusalCode, what: &str, limit: Option<i32>, rate: Rate) -> Option<Refusal> {
    let Rate::Exceeded { retry_after } = rate else {
        return None;
    };
    let limit = limit.map(|limit| format!("{limit} ")).unwrap_or_default();
    let seconds = retry_after.as_secs_f64().ceil();
    refusal(
        code,
        format!("this key has made its {limit}{what}: the next is possible in {seconds} seconds"),
    )
}

fn tool(principal: &Principal, intent: &Intent) -> Option<Refusal> {
    if intent.tool.is_in(principal.access, &principal.tools) {
        return None;
    }
    refusal(
        RefusalCode::ToolNotInScope,
        format!(
            "{} has access {:?}, which does not include {}: tools/list shows what it may call",
            Scope(principal),
            principal.access,
            intent.tool.name()
        ),
    )
}

fn approval(principal: &Principal, intent: &Intent) -> Option<Refusal> {
    let name = intent.tool.name();
    if !principal.needs_approval.iter().any(|tool| tool == name) {
        return None;
    }
    refusal(
        RefusalCode::NeedsApproval,
        format!(
            "{name} needs a person's approval in {}: ask one to apply it with kubectl",
            Scope(principal)
        ),
    )
}

fn length(principal: &Principal, intent: &Intent) -> Option<Refusal> {
    let limit = principal.limits.max_isolation.as_deref()?;
    // A limit that can't be read is no permission.
    let most = span::parse(limit).unwrap_or(Duration::ZERO);
    let what = match intent.tool {
        Tool::CreatePolicy => {
            "a policy that cuts devices off (a default of Deny, a Deny of devices)"
        }
        _ => "an isolation",
    };
    match intent.lasts {
        Lasts::NotATime => None,
        Lasts::For(length) if length <= most => None,
        Lasts::For(_) => refusal(
            RefusalCode::TooLong,
            format!(
                "{what} of {} lasts at most {limit}: give a ttl of at most {limit}",
                Scope(principal)
            ),
        ),
        Lasts::UntilDeleted => refusal(
            RefusalCode::EndRequired,
            format!(
                "{what} of {} must end: give a ttl of at most {limit}",
                Scope(principal)
            ),
        ),
    }
}

fn allowing(principal: &Principal, intent: &Intent) -> Option<Refusal> {
    // A Custom scope that has this tool was given it by name.
    if !intent.allows || matches!(principal.access, Access::Manage | Access::Custom) {
        return None;
    }
    refusal(
        RefusalCode::AllowNotInScope,
        format!(
            "{} has access {:?}, which may only tighten: rules that Deny or Audit, defaults that Deny",
            Scope(principal),
            principal.access
        ),
    )
}

fn actions(
    principal: &Principal,
    intent: &Intent,
    circumstances: &Circumstances,
) -> Option<Refusal> {
    if intent.tool.effect() == Effect::Read || intent.dry_run {
        return None;
    }
    rate(
        RefusalCode::ActionsPerHour,
        "actions an hour",
        principal.limits.actions_per_hour,
        circumstances.actions,
    )
}

#[cfg(test)]
#[path = "decide_tests.rs"]
pub mod tests;
