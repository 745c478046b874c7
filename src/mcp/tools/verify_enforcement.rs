//! `verify_enforcement`.

use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use crate::access::Tool;
use crate::domain::names::DeviceId;
use crate::local::pods::PodReadBack;
use crate::local::types::{DeviceReadBack, NOT_FOUND, Problem, VerifyReport, VerifyRequest};
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
use crate::mcp::page;
use crate::mcp::text::clean;

/// Devices, and pods, that are named in one call.
const MOST_NAMED: usize = 1000;
/// Rules whose counts are shown for one device.
const MOST_RULES: usize = 50;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The devices to ask: ids such as list_devices gives.
    #[serde(default)]
    device_ids: Vec<String>,
    /// The pods whose nodes to ask: names such as list_workloads gives. Without both, every connected device
    /// of the tenant, and all of its pods that something is in force for.
    #[serde(default)]
    pods: Vec<String>,
    /// Devices and pods on one page; 50 unless given, and fewer when they would not fit.
    limit: Option<u32>,
    /// Where the page begins: next_cursor of the page before. They are asked again.
    cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    devices: Vec<Device>,
    pods: Vec<Pod>,
    /// Devices, of all that were asked, on this page or not.
    asked: usize,
    matching: usize,
    /// Pods, of all that were asked for, on this page or not.
    pods_asked: usize,
    pods_matching: usize,
    /// Present when there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item {
    Device(Device),
    Pod(Pod),
}

#[derive(Debug, Serialize, JsonSchema)]
struct Pod {
    pod: String,
    /// The kernel of its node holds exactly what should be in force for it.
    matches: bool,
    /// What differs, or why it could not be asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Device {
    device_id: String,
    connected: bool,
    /// Its kernel holds exactly what should be in force.
    matches: bool,
    /// What differs, or why it could not be asked.
    detail: String,
    /// What rules have met since they were loaded.
    counts: Vec<Count>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Count {
    /// namespace/policy/rule
    rule: String,
    packets: u64,
    bytes: u64,
    /// Its policy observes: it would have decided, and did not.
    observing: bool,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::VerifyEnforcement,
        "Verify enforcement",
        "Has devices, and the agents of pods' nodes, read their kernel's rules back now, and says for each \
         device and pod whether they are exactly what should be in force, with counts of packets that met \
         each rule of a device.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    for (name, list) in [("device_ids", &input.device_ids), ("pods", &input.pods)] {
        if list.len() > MOST_NAMED {
            return Err(Failure::invalid(format!(
                "{name} names more than {MOST_NAMED}: ask in parts, or leave it out for all"
            )));
        }
    }
    let mut devices: Vec<DeviceId> = Vec::new();
    for id in &input.device_ids {
        devices.push(call.device(id).await?.id);
    }
    let request = VerifyRequest {
        devices,
        pods: input.pods,
    };
    let report = call
        .shared
        .operator
        .verify(&call.principal.tenant, &request);
    let report = report.await.map_err(in_words)?;
    let summary = Summary::of(&report);
    let (page, lines) = page::cut(
        answers(report),
        input.cursor.as_deref(),
        input.limit,
        Answer::key,
        show,
    )?;
    let cursor = page.next_cursor.as_deref();
    let text = summary.text() + &page::heading(page.items.len(), "answer", cursor) + &lines;
    let (mut devices, mut pods) = (Vec::new(), Vec::new());
    for item in page.items {
        match item {
            Item::Device(device) => devices.push(device),
            Item::Pod(pod) => pods.push(pod),
        }
    }
    let output = Output {
        devices,
        pods,
        asked: summary.devices.0,
        matching: summary.devices.1,
        pods_asked: summary.pods.0,
        pods_matching: summary.pods.1,
        next_cursor: page.next_cursor,
    };
    Ok(Reply::new(&output, text))
}

fn in_words(problem: Problem) -> Failure {
    match problem.code.as_str() {
        NOT_FOUND => Failure::not_found(format!(
            "{}: list_devices and list_workloads give what there is",
            clean(&problem.message, 512)
        )),
        _ => problem.into(),
    }
}

/// How many were asked, and how many of them match.
struct Summary {
    devices: (usize, usize),
    pods: (usize, usize),
}

impl Summary {
    fn of(report: &VerifyReport) -> Self {
        let VerifyReport { devices, pods } = report;
        let matching_devices = devices.iter().filter(|device| device.matches);
        let matching_pods = pods.iter().filter(|pod| pod.matches);
        Self {
            devices: (devices.len(), matching_devices.count()),
            pods: (pods.len(), matching_pods.count()),
        }
    }

    fn text(&self) -> String {
        let (asked, matching) = self.devices;
        let (pods, of_pods) = self.pods;
        let mut text = String::new();
        if asked > 0 || pods == 0 {
            text = format!("{matching} of {asked} devices hold exactly what should be in force\n");
        }
        if pods > 0 {
            text.push_str(&format!(
                "for {of_pods} of {pods} pods their nodes hold exactly what should be in force\n"
            ));
        }
        text
    }
}

enum Answer {
    Device(DeviceReadBack),
    Pod(PodReadBack),
}

impl Answer {
    /// Devices come first.
    fn key(&self) -> String {
        match self {
            Self::Device(answer) => format!("device/{}", answer.device),
            Self::Pod(answer) => format!("pod/{}", answer.pod),
        }
    }
}

fn answers(report: VerifyReport) -> Vec<Answer> {
    let devices = report.devices.into_iter().map(Answer::Device);
    let pods = report.pods.into_iter().map(Answer::Pod);
    let mut answers: Vec<Answer> = devices.chain(pods).collect();
    answers.sort_by_key(Answer::key);
    answers
}

fn show(answer: Answer) -> (Item, String) {
    match answer {
        Answer::Device(answer) => {
            let (device, line) = show_device(answer);
            (Item::Device(device), line)
        }
        Answer::Pod(answer) => {
            let (pod, line) = show_pod(answer);
            (Item::Pod(pod), line)
        }
    }
}

fn show_pod(answer: PodReadBack) -> (Pod, String) {
    let pod = Pod {
        pod: clean(&answer.pod, 253),
        matches: answer.matches,
        detail: clean(&answer.detail, 512),
    };
    let state = match (pod.matches, pod.detail.is_empty()) {
        (true, true) => "matches".to_owned(),
        (true, false) => format!("matches: {}", pod.detail),
        (false, _) => format!("differs, or was not read back: {}", pod.detail),
    };
    let line = format!("{} {state}", pod.pod);
    (pod, line)
}

fn show_device(answer: DeviceReadBack) -> (Device, String) {
    let item = Device {
        device_id: answer.device.to_string(),
        connected: answer.connected,
        matches: answer.matches,
        detail: clean(&answer.detail, 512),
        counts: answer
            .counts
            .into_iter()
            .take(MOST_RULES)
            .map(|count| Count {
                rule: clean(&count.rule, 256),
                packets: count.packets,
                bytes: count.bytes,
                observing: count.observing,
            })
            .collect(),
    };
    let state = match (item.matches, item.connected) {
        (true, _) => "matches".to_owned(),
        (false, true) => format!("differs: {}", item.detail),
        (false, false) => format!("offline: {}", item.detail),
    };
    let line = format!("{} {state}", item.device_id);
    (item, line)
}
