//! An answer for people: the verdict, a line for each step with a star where it decides, and what it hangs
//! on.

use crate::domain::explain::{Did, Explanation, Layer, Path, Point, Side, Step, Verdict};
use crate::fleet::tables;

pub fn table(answer: &Explanation) -> String {
    let Explanation {
        from,
        to,
        protocol,
        port,
        verdict,
        because,
        paths,
        notes,
    } = answer;
    let protocol = format!("{protocol:?}").to_uppercase();
    let port = port.map_or(protocol.clone(), |port| format!("{port}/{protocol}"));
    let mut text = format!(
        "{}: {from} to {to} at {port}\n{because}\n",
        word(*verdict).to_uppercase()
    );
    for path in paths {
        if paths.len() > 1 {
            let pairs = path.pairs.iter();
            let pairs: Vec<String> = pairs.map(|p| format!("{} to {}", p.from, p.to)).collect();
            text += &format!("\n{}: {}\n", pairs.join(", "), word(path.verdict));
        }
        text += &steps(path);
    }
    if !notes.is_empty() {
        text += "\n";
    }
    for note in notes {
        text += &format!("note: {note}\n");
    }
    text
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Reaches => "reaches",
        Verdict::Blocked => "blocked",
        Verdict::Unknown => "unknown",
    }
}

fn steps(path: &Path) -> String {
    let rows: Vec<Vec<String>> = path.points.iter().flat_map(rows).collect();
    if rows.is_empty() {
        return String::new();
    }
    let headings = ["", "SIDE", "AT", "RESOURCE", "RULE", "DID"];
    format!("\n{}", tables::table(&headings, rows.into_iter()))
}

fn rows(point: &Point) -> Vec<Vec<String>> {
    let Point {
        side,
        layer,
        at,
        passes: _,
        steps,
        unmatched_left_out,
        device: _,
    } = point;
    let side = match side {
        Side::Source => "source",
        Side::Destination => "destination",
    };
    let at = match layer {
        Layer::Host | Layer::Pod => format!("{at} (agent)"),
        Layer::NetworkPolicies => at.clone(),
    };
    let row = |mark: &str, resource: String, rule: &str, did: &str| {
        [mark, side, &at, &resource, rule, did]
            .map(str::to_owned)
            .to_vec()
    };
    let mut rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let Step {
                resource,
                rule,
                did,
                decisive,
            } = step;
            let resource = resource.as_ref().map(ToString::to_string);
            let mark = if *decisive { "*" } else { "" };
            row(
                mark,
                resource.unwrap_or_else(|| "-".into()),
                rule,
                said(*did),
            )
        })
        .collect();
    if *unmatched_left_out > 0 {
        let more = format!("{unmatched_left_out} more");
        rows.push(row("", more, "", said(Did::NoMatch)));
    }
    if rows.is_empty() {
        rows.push(row("", "-".to_owned(), "", "nothing stands in the way"));
    }
    rows
}

fn said(did: Did) -> &'static str {
    match did {
        Did::Allowed => "allowed",
        Did::Denied => "denied",
        Did::WouldAllow => "would allow",
        Did::WouldDeny => "would deny",
        Did::Audited => "audited",
        Did::NoMatch => "no match",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Protocol;
    use crate::domain::explain::{Pair, ResourceKind, ResourceName};

    fn step(name: &str, rule: &str, did: Did, decisive: bool) -> Step {
        Step {
            resource: Some(ResourceName {
                kind: ResourceKind::Policy,
                namespace: "shop".to_owned(),
                name: name.to_owned(),
            }),
            rule: rule.to_owned(),
            did,
            decisive,
        }
    }

    #[test]
    fn an_answer_is_a_verdict_and_a_line_for_each_step() {
        let answer = Explanation {
            from: "pod/shop/web-0".to_owned(),
            to: "device/dev_00000000000000000000000001".to_owned(),
            protocol: Protocol::Tcp,
            port: Some(22),
            verdict: Verdict::Blocked,
            because: "at node/n1, ssh of Policy shop/web denies it".to_owned(),
            paths: vec![Path {
                pairs: vec![Pair {
                    from: [10, 1, 0, 1].into(),
                    to: [10, 0, 0, 1].into(),
                }],
                verdict: Verdict::Blocked,
                because: String::new(),
                points: vec![Point {
                    side: Side::Source,
                    layer: Layer::Pod,
                    at: "node/n1".to_owned(),
                    passes: false,
                    steps: vec![
                        step("web", "http", Did::NoMatch, false),
                        step("web", "ssh", Did::Denied, true),
                    ],
                    unmatched_left_out: 0,
                    device: None,
                }],
            }],
            notes: vec!["one".to_owned()],
        };
        let expected = "\
BLOCKED: pod/shop/web-0 to device/dev_00000000000000000000000001 at 22/TCP
at node/n1, ssh of Policy shop/web denies it

   SIDE    AT               RESOURCE         RULE  DID
   source  node/n1 (agent)  Policy shop/web  http  no match
*  source  node/n1 (agent)  Policy shop/web  ssh   denied

note: one
";
        assert_eq!(table(&answer), expected);
    }
}
