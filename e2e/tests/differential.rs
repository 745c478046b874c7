//! The made-up clusters of the differential test: what they are made of is real, and the comparison finds
//! what it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use libtest_mimic::Trial;
use seawall::domain::compile::compile;
use seawall::domain::explain::{Explanation, Known, Question, Verdict, explain};
use seawall::domain::names::ObjectKey;
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::charts;
use crate::differential::{Scenario, Size, compare};
use crate::harness::{case, eventually};

const SIZE: Size = Size {
    pods: 6,
    network_policies: 4,
    policies: 3,
    isolations: 1,
};
const NODES: [&str; 2] = ["n1", "n2"];

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a seed makes the same cluster each time, and others make others",
            seeds,
        ),
        case("the API server takes every made-up object", taken),
        case(
            "the comparison finds each answer that packets contradict, and names the seed",
            contradicted,
        ),
    ]
}

fn everything(seed: u64) -> Vec<Value> {
    let scenario = Scenario::generate(seed, SIZE);
    let mut all = scenario.objects();
    all.extend(scenario.pods("localhost/test:none", &NODES));
    all
}

async fn seeds() -> anyhow::Result<()> {
    let mut different = BTreeSet::new();
    for seed in 0..20 {
        ensure!(everything(seed) == everything(seed), "seed {seed}");
        different.insert(Value::from(everything(seed)).to_string());
        let questions = Scenario::generate(seed, SIZE).questions();
        ensure!(questions == Scenario::generate(seed, SIZE).questions());
        ensure!(questions.len() == 6 * 5 * 2, "{}", questions.len());
    }
    ensure!(different.len() == 20, "{} differ", different.len());
    Ok(())
}

/// Asked without keeping any but the namespaces, which every seed has.
async fn taken() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let admin = Caller::admin(cluster);
    let is_namespace = |object: &Value| object["kind"] == "Namespace";
    for namespace in everything(0).iter().filter(|it| is_namespace(it)) {
        admin.create(namespace).await?;
        has_default_account(&admin, &namespace["metadata"]["name"]).await?;
    }
    let mut kinds = BTreeSet::new();
    for seed in 0..12 {
        let all = everything(seed).into_iter();
        for object in all.filter(|object| !is_namespace(object)) {
            let taken = admin.try_create(&object).await;
            taken.with_context(|| format!("seed {seed}: {object}"))?;
            kinds.insert(object["kind"].to_string());
        }
    }
    ensure!(kinds.len() == 4, "{kinds:?}");
    Ok(())
}

/// Without it no pod is taken, and it comes a while after the namespace.
async fn has_default_account(admin: &Caller, namespace: &Value) -> anyhow::Result<()> {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": namespace},
    });
    eventually("the default account", Duration::from_secs(30), || async {
        Ok(admin.get(&account).await.ok())
    })
    .await
    .map(drop)
}

fn answers(scenario: &Scenario) -> anyhow::Result<Vec<(Question, Explanation)>> {
    let pods = scenario.pods.keys().enumerate();
    let addresses: BTreeMap<ObjectKey, BTreeSet<IpAddr>> = pods
        .map(|(number, key)| {
            let last = u8::try_from(number + 1).expect("few pods");
            (key.clone(), [[10, 244, 0, last].into()].into())
        })
        .collect();
    let world = scenario.world(&NODES, &addresses)?;
    let compiled = compile(&world, Timestamp::UNIX_EPOCH);
    let known = Known {
        world: &world,
        compiled: &compiled,
        applied: None,
    };
    let questions = scenario.questions().into_iter();
    questions
        .map(|question| Ok((question.clone(), explain(&known, &question)?)))
        .collect()
}

async fn contradicted() -> anyhow::Result<()> {
    let (mut reaching, mut blocked) = (0, 0);
    for seed in 0..40 {
        let answers = answers(&Scenario::generate(seed, SIZE))?;
        let mut passed: Vec<bool> = answers
            .iter()
            .map(|(_, answer)| answer.verdict == Verdict::Reaches)
            .collect();
        compare(seed, &answers, &passed)?.check()?;
        reaching += passed.iter().filter(|passed| **passed).count();
        let said = answers.iter().map(|(_, answer)| answer.verdict);
        blocked += said.filter(|verdict| *verdict == Verdict::Blocked).count();

        let known = answers
            .iter()
            .position(|(_, a)| a.verdict != Verdict::Unknown);
        let known = known.context("something is known")?;
        passed[known] = !passed[known];
        let comparison = compare(seed, &answers, &passed)?;
        ensure!(comparison.disagreements.len() == 1, "{comparison}");
        let words = comparison.check().expect_err("they disagree").to_string();
        ensure!(words.starts_with(&format!("seed {seed}: ")), "{words}");
        ensure!(
            words.contains(&answers[known].0.from.to_string()),
            "{words}"
        );
        passed.pop();
        ensure!(compare(seed, &answers, &passed).is_err(), "one is missing");
    }
    ensure!(
        reaching > 400 && blocked > 400,
        "{reaching} reach, {blocked} are blocked"
    );
    Ok(())
}
