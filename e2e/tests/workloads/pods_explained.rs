//! What is said of connections between pods, held against packets between them, on clusters that seeds make up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use libtest_mimic::Trial;
use seawall::api::Protocol;
use seawall::domain::compile::compile;
use seawall::domain::explain::{Explanation, Known, Place, Question, Verdict, explain};
use seawall::domain::names::{DeviceId, ObjectKey};
use seawall::domain::world::{Device, World};

use super::{ENFORCING, installed};
use crate::cluster::node::{Pod, SHELL};
use crate::differential::{Scenario, Size, compare};
use crate::harness::case;
use crate::installed::{Installed, PATIENCE};
use crate::lab::{Reach, Responder, reach};

pub fn all() -> Vec<Trial> {
    vec![case(
        "of made-up pods and policies the evaluator says what packets then do",
        agrees,
    )]
}

const SIZE: Size = Size {
    pods: 6,
    network_policies: 4,
    policies: 3,
    isolations: 1,
};
const ANSWER: Duration = Duration::from_millis(800);
/// How long the policy engine may take.
const SETTLED: Duration = Duration::from_secs(45);
/// Pairs that are tried at once.
const AT_ONCE: usize = 8;

async fn agrees() -> anyhow::Result<()> {
    let seawall = installed().await?;
    // The same each time unless one is given, so that a failure is about the change at hand.
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse().context("SEED is a number")?,
        Err(_) => 7,
    };
    eprintln!("SEED={seed}");
    let scenario = Scenario::generate(seed, SIZE);
    let cluster = Cluster::build(&seawall, &scenario).await?;
    let answers = cluster.answers(&scenario)?;
    let deadline = Instant::now() + SETTLED;
    loop {
        let passed = cluster.passed(&answers).await?;
        let comparison = compare(seed, &answers, &passed)?;
        if comparison.disagreements.is_empty() || Instant::now() > deadline {
            eprintln!("{comparison}");
            return comparison.check();
        }
    }
}

/// The scenario's pods, running.
struct Cluster {
    pods: BTreeMap<ObjectKey, Pod>,
    /// Of each pod, by port.
    responders: BTreeMap<(ObjectKey, u16), Responder>,
}

impl Cluster {
    async fn build(seawall: &Installed, scenario: &Scenario) -> anyhow::Result<Self> {
        for name in scenario.namespaces.keys() {
            seawall.cluster.namespace(name).await?;
        }
        for object in scenario.objects() {
            seawall.cluster.apply(&object).await?;
        }
        let node = seawall.node(ENFORCING);
        for pod in scenario.pods(SHELL, &[ENFORCING]) {
            seawall.cluster.apply(&pod).await?;
        }
        let mut pods = BTreeMap::new();
        let mut responders = BTreeMap::new();
        for key in scenario.pods.keys() {
            let pod = node.pod(&key.namespace, &key.name).await?;
            for port in crate::differential::PORTS {
                let responder = Responder::start(&pod.host, port).await?;
                responders.insert((key.clone(), port), responder);
            }
            pods.insert(key.clone(), pod);
        }
        for (objects, kind) in [
            (&scenario.policies, "policy"),
            (&scenario.isolations, "isolation"),
        ] {
            for object in objects {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
                let object = (text("namespace"), kind, text("name"));
                seawall.condition(object, "Ready", "True").await?;
            }
        }
        Ok(Self { pods, responders })
    }

    fn world(&self, scenario: &Scenario) -> anyhow::Result<World> {
        let addresses = self.pods.iter().map(|(key, pod)| {
            let addresses = [pod.host.v4().into(), pod.host.v6().into()];
            (key.clone(), BTreeSet::from(addresses))
        });
        let mut world = scenario.world(&[ENFORCING], &addresses.collect())?;
        let id = DeviceId::from_ulid(ulid::Ulid::from_parts(0, 1));
        let node = Device {
            tenant: "seawall-system".to_owned(),
            node: Some(ENFORCING.to_owned()),
            ..Device::default()
        };
        world.devices.insert(id, node);
        Ok(world)
    }

    fn answers(&self, scenario: &Scenario) -> anyhow::Result<Vec<(Question, Explanation)>> {
        let world = self.world(scenario)?;
        let compiled = compile(&world, Timestamp::now());
        let known = Known {
            world: &world,
            compiled: &compiled,
            applied: None,
        };
        let questions = scenario.questions().into_iter();
        let answers = questions.map(|question| {
            let answer = explain(&known, &question)?;
            anyhow::Ok((question, answer))
        });
        answers.collect()
    }

    async fn passed(&self, answers: &[(Question, Explanation)]) -> anyhow::Result<Vec<bool>> {
        let tries = answers.iter().map(|(question, answer)| async move {
            let (Place::Pod(from), Place::Pod(to)) = (&question.from, &question.to) else {
                anyhow::bail!("a question about others than pods");
            };
            let port = answer.port.context("every question has a port")?;
            let responder = &self.responders[&(to.clone(), port)];
            let found = reach(&self.pods[from].host, responder, ANSWER).await?;
            Ok(came_through(question.protocol, answer.verdict, found))
        });
        // In the order of the questions.
        let tries = futures::stream::iter(tries).buffered(AT_ONCE);
        tokio::time::timeout(PATIENCE, tries.try_collect())
            .await
            .context("trying every pair")?
    }
}

/// An answer is about both families: what reaches does so by each, what is blocked by none.
fn came_through(protocol: Protocol, said: Verdict, found: Reach) -> bool {
    let (v4, v6) = match protocol {
        Protocol::Udp => (found.udp4, found.udp6),
        _ => (found.tcp4, found.tcp6),
    };
    match said {
        Verdict::Blocked => v4 || v6,
        Verdict::Reaches | Verdict::Unknown => v4 && v6,
    }
}
