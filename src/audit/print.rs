//! Entries in words, one line each, safe to show on a terminal.

use serde::Deserialize;
use serde_json::Value;

use super::entry::{Body, Entry, ObjectRef};
use super::text::{MESSAGE, clean};

/// `#12 2026-11-21T03:55:00Z plant agent plant/triage intent: isolate_device {"device":…} because …`
pub fn line(index: u64, bytes: &[u8]) -> String {
    let Ok(entry) = Entry::decode(bytes) else {
        let text = String::from_utf8_lossy(bytes);
        return format!("#{index} (not readable) {}", clean(&text, 200));
    };
    let actor = &entry.actor;
    let via = actor.via.as_deref().map(|via| format!(" via {via}"));
    let line = format!(
        "#{index} {} {} {} {}{} {}: {}",
        entry.time,
        entry.tenant,
        actor.kind.as_str(),
        actor.name,
        via.unwrap_or_default(),
        entry.body.kind().as_str(),
        words(&entry.body)
    );
    clean(&line, MESSAGE)
}

/// What an entry says, without who and when; none of one that this version can't read.
pub fn sentence(entry: &Value) -> Option<String> {
    let entry = Entry::deserialize(entry).ok()?;
    Some(clean(&words(&entry.body), MESSAGE))
}

fn words(body: &Body) -> String {
    match body {
        Body::Intent(intent) => {
            let dry = if intent.dry_run { " (dry run)" } else { "" };
            format!(
                "{}{dry} {} because {}",
                intent.tool, intent.parameters, intent.reason
            )
        }
        Body::Outcome(outcome) => {
            let dry = if outcome.dry_run { " (dry run)" } else { "" };
            format!(
                "{}{dry} {} in {} ms{}{} ({})",
                outcome.tool,
                outcome.result.as_str(),
                outcome.milliseconds,
                list(" wrote", &outcome.objects),
                behind(": ", &outcome.message),
                outcome.intent
            )
        }
        Body::Refusal(refusal) => {
            let by = match refusal.by {
                super::entry::RefusedBy::Us => "the MCP server",
                super::entry::RefusedBy::ApiServer => "the API server",
            };
            format!(
                "{} by {by}: {} ({}) {}",
                refusal.tool, refusal.why, refusal.code, refusal.parameters
            )
        }
        Body::Read(read) => format!("{} {}", read.tool, read.result.as_str()),
        Body::ChangeRequest(request) => {
            let metadata = if request.metadata_only {
                " (metadata only)"
            } else {
                ""
            };
            format!(
                "{} asked to {} {}{metadata}",
                request.user, request.verb, request.object
            )
        }
        Body::ResourceChange(change) => format!(
            "{} {} by {} ({})",
            change.verb,
            change.object,
            change.user,
            change.requests.join(", ")
        ),
        Body::ChangeNotSeen(request) => format!(
            "{} {} by {}: asked for, and not seen to happen: {} ({})",
            request.verb, request.object, request.user, request.why, request.request
        ),
        Body::Gap(gap) => format!(
            "nobody recorded from {} to {}: {}{}",
            gap.from,
            gap.to,
            gap.why,
            list("; changed", &gap.objects)
        ),
        Body::Enforcement(done) => {
            let took = done.milliseconds.map(|ms| format!(" in {ms} ms"));
            format!(
                "{} {}{}{}{}",
                done.device,
                done.action,
                took.unwrap_or_default(),
                list(" for", &done.objects),
                detail(&done.detail)
            )
        }
        Body::Device(device) => {
            format!(
                "{} {}{}",
                device.device,
                device.event,
                detail(&device.detail)
            )
        }
        Body::Hold(hold) => {
            let by = hold.by.as_deref().map(|by| format!(" by {by}"));
            format!(
                "{} {}{}{}",
                hold.hold,
                hold.event,
                by.unwrap_or_default(),
                list(" of", &hold.objects)
            )
        }
        Body::Service(service) => format!(
            "{} version {}{}",
            service.event,
            service.version,
            detail(&service.detail)
        ),
    }
}

fn behind(separator: &str, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!("{separator}{text}")
}

fn list(lead: &str, objects: &[ObjectRef]) -> String {
    let names: Vec<String> = objects.iter().map(ToString::to_string).collect();
    behind(&format!("{lead} "), &names.join(", "))
}

fn detail(detail: &Option<Value>) -> String {
    detail
        .as_ref()
        .map(|detail| format!(" {detail}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::entry::{Actor, ActorKind, Intent};
    use serde_json::json;

    #[test]
    fn an_intent_reads_as_who_when_what_and_why() {
        let body = Body::Intent(Intent {
            tool: "isolate_device".into(),
            parameters: json!({"device": "dev_1"}),
            reason: "lateral\u{1b}[2J movement\n".into(),
            dry_run: true,
            target: None,
            call: None,
        });
        let actor = Actor::new(ActorKind::Agent, "plant/triage").via("mcp");
        let mut entry = Entry::new("plant", actor, body);
        entry.time = "2026-11-21T03:55:00Z".parse().unwrap();
        assert_eq!(
            line(12, &entry.encode().unwrap()),
            "#12 2026-11-21T03:55:00Z plant agent plant/triage via mcp intent: isolate_device (dry \
             run) {\"device\":\"dev_1\"} because lateral[2J movement"
        );
    }

    #[test]
    fn bytes_that_are_no_entry_are_shown_without_harm() {
        assert_eq!(
            line(3, b"\x1b[2Jno entry\xff"),
            "#3 (not readable) [2Jno entry\u{fffd}"
        );
    }
}
