//! `explain_connection`.

use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use crate::access::Tool;
use crate::domain::explain::{
    Explanation, Layer, Path, Place, Point, Question, Side, Step, Verdict,
};
use crate::local::types::{NOT_FOUND, UNAVAILABLE};
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
use crate::mcp::text::clean;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// Who opens the connection: pod/NAMESPACE/NAME, device/ID with an id such as list_devices gives,
    /// node/NAME, or an IP address.
    from: String,
    /// Who listens, written the same way.
    to: String,
    /// Port and protocol, such as 5432/TCP, 53/UDP or dns/UDP for a port that the pod names; or ICMP.
    port: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    from: String,
    to: String,
    verdict: String,
    /// The verdict in a sentence, with what decides.
    because: String,
    /// For each way in which pairs of addresses fare.
    paths: Vec<PathItem>,
    #[serde(skip_serializing_if = "is_zero")]
    more_paths: usize,
    /// What the answer hangs on and can't be known.
    notes: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PathItem {
    /// Addresses, from and to.
    pairs: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    more_pairs: usize,
    verdict: String,
    /// The enforcement points on the way, in order.
    points: Vec<PointItem>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PointItem {
    /// source or destination
    side: String,
    /// agent of a host, agent of the pod's node, or NetworkPolicies
    enforced_by: String,
    at: String,
    passes: bool,
    steps: Vec<StepItem>,
    #[serde(skip_serializing_if = "is_zero")]
    more_steps: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
struct StepItem {
    /// Kind namespace/name
    resource: String,
    rule: String,
    /// Allowed, Denied, WouldAllow, WouldDeny, Audited or NoMatch
    did: String,
    /// It decides the verdict.
    decisive: bool,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Shown of each, so that an answer stays readable; what decides is always among the steps.
const MOST_PATHS: usize = 4;
const MOST_PAIRS: usize = 8;
const MOST_STEPS: usize = 10;
const MOST_TEXT: usize = 1024;

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::ExplainConnection,
        "Explain a connection",
        "Says whether a connection comes through, and which rule of which resource decides: the \
         Isolations and Policies that agents enforce, and the NetworkPolicies of pods, with the steps at \
         each enforcement point. Nothing is sent: it is read from what is in force. Only pods and \
         devices of this tenant are looked into.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let question = question(&input)?;
    call.about(&format!("{} to {}", question.from, question.to));
    let operator = &call.shared.operator;
    let answer = operator.explain(&call.principal.tenant, &question).await;
    let answer = answer.map_err(|problem| match problem.code.as_str() {
        UNAVAILABLE | NOT_FOUND => Failure::from(problem),
        _ => Failure::invalid(clean(&problem.message, MOST_TEXT)),
    })?;
    let output = Output::of(&answer);
    let mut text = format!(
        "{} to {}: {}. {}.",
        output.from, output.to, output.verdict, output.because
    );
    for note in &output.notes {
        text.push_str(&format!(" Note: {note}."));
    }
    Ok(Reply::new(&output, text))
}

fn question(input: &Input) -> Result<Question, Failure> {
    let place = |argument: &str, text: &str| {
        text.parse::<Place>()
            .map_err(|error| Failure::invalid(format!("{argument}: {error}")))
    };
    let (port, protocol) = Question::port_and_protocol(&input.port)
        .map_err(|error| Failure::invalid(format!("port: {error}")))?;
    Ok(Question {
        from: place("from", &input.from)?,
        to: place("to", &input.to)?,
        protocol,
        port,
        tenant: None,
    })
}

impl Output {
    fn of(answer: &Explanation) -> Self {
        let paths = answer.paths.iter();
        Self {
            from: clean(&answer.from, MOST_TEXT),
            to: clean(&answer.to, MOST_TEXT),
            verdict: verdict(answer.verdict),
            because: clean(&answer.because, MOST_TEXT),
            paths: paths.take(MOST_PATHS).map(PathItem::of).collect(),
            more_paths: answer.paths.len().saturating_sub(MOST_PATHS),
            notes: answer.notes.iter().map(|n| clean(n, MOST_TEXT)).collect(),
        }
    }
}

fn verdict(verdict: Verdict) -> String {
    format!("{verdict:?}")
}

impl PathItem {
    fn of(path: &Path) -> Self {
        let pairs = path.pairs.iter().take(MOST_PAIRS);
        Self {
            pairs: pairs.map(|p| format!("{} to {}", p.from, p.to)).collect(),
            more_pairs: path.pairs.len().saturating_sub(MOST_PAIRS),
            verdict: verdict(path.verdict),
            points: path.points.iter().map(PointItem::of).collect(),
        }
    }
}

impl PointItem {
    fn of(point: &Point) -> Self {
        let side = match point.side {
            Side::Source => "source",
            Side::Destination => "destination",
        };
        let enforced_by = match point.layer {
            Layer::Host => "agent of a host",
            Layer::Pod => "agent of the pod's node",
            Layer::NetworkPolicies => "NetworkPolicies",
        };
        // Those that end the evaluation are last.
        let left_out = point.steps.len().saturating_sub(MOST_STEPS);
        Self {
            side: side.to_owned(),
            enforced_by: enforced_by.to_owned(),
            at: clean(&point.at, MOST_TEXT),
            passes: point.passes,
            steps: point
                .steps
                .iter()
                .skip(left_out)
                .map(StepItem::of)
                .collect(),
            more_steps: left_out + point.unmatched_left_out,
        }
    }
}

impl StepItem {
    fn of(step: &Step) -> Self {
        let resource = step.resource.as_ref().map(ToString::to_string);
        Self {
            resource: clean(&resource.unwrap_or_default(), MOST_TEXT),
            rule: clean(&step.rule, MOST_TEXT),
            did: format!("{:?}", step.did),
            decisive: step.decisive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Protocol;
    use crate::domain::explain::{Did, Pair, ResourceKind, ResourceName};

    fn step(did: Did) -> Step {
        Step {
            resource: Some(ResourceName {
                kind: ResourceKind::NetworkPolicy,
                namespace: "n".repeat(63),
                name: "p".repeat(253),
            }),
            rule: "r".repeat(63),
            did,
            decisive: did == Did::Denied,
        }
    }

    #[test]
    fn the_largest_answer_is_one_that_clients_take_and_keeps_what_decides() {
        let mut steps = vec![step(Did::NoMatch); 400];
        steps.push(step(Did::Denied));
        let point = Point {
            side: Side::Source,
            layer: Layer::Host,
            at: "node/n1".to_owned(),
            passes: false,
            steps,
            unmatched_left_out: 3,
            device: None,
        };
        let pair = Pair {
            from: [10, 0, 0, 1].into(),
            to: [10, 0, 0, 2].into(),
        };
        let path = Path {
            pairs: vec![pair; 4096],
            verdict: Verdict::Blocked,
            because: "x".repeat(4000),
            points: vec![point; 4],
        };
        let answer = Explanation {
            from: "pod/shop/web-0\u{202e}".to_owned(),
            to: "10.0.0.2".to_owned(),
            protocol: Protocol::Tcp,
            port: Some(22),
            verdict: Verdict::Blocked,
            because: "x".repeat(4000),
            paths: vec![path; 100],
            notes: vec!["n".repeat(300); 12],
        };
        let output = Output::of(&answer);
        let point = &output.paths[0].points[0];
        assert!(point.steps.last().is_some_and(|step| step.decisive));
        assert_eq!((output.more_paths, point.more_steps), (96, 394));
        assert_eq!(output.from, "pod/shop/web-0");
        let size = serde_json::to_vec(&output).expect("JSON").len();
        assert!(size < 25_000 * 4, "{size} bytes");
    }
}
