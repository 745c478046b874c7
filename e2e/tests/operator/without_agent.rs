//! Pods of nodes without an agent, by what the API server has of them: no kubelet runs here, and no packets.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::shop::{NODE, SHOP, Shop, WITHOUT_AGENT};
use crate::harness::{case, eventually};
use crate::operators::{Fixture, PATIENCE};

const ISOLATED: &str = "seawall.dev/isolated";

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "without an agent, an isolated pod of a Deployment loses its labels, is replaced, and goes on release",
            replaced,
        ),
        case(
            "an isolation by labels takes those of the pods that were there, and of no replacement",
            by_labels,
        ),
        case(
            "a pod that nothing would replace keeps its labels, and the status says what stands in the way",
            refused,
        ),
        case(
            "where the operator may not patch pods, the status says so and nothing is tried",
            not_granted,
        ),
        case(
            "pods without labels stay while their release is held, and are swept when the operator is back",
            held,
        ),
    ]
}

async fn replaced() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let suspect = shop.run("Deployment", "web", 1).await?.remove(0);
    let before = shop.pod(&suspect).await?.context("it runs")?;
    let uid = before["metadata"]["uid"].as_str().context("a UID")?;
    shop.isolate("one", json!({"pod": suspect})).await?;
    shop.stands("one", "Programmed", ("True", "ReadBack"), "release deletes")
        .await?;
    let enforced = shop.condition("one", "Enforced").await?;
    ensure!(enforced["status"] == "Unknown", "{enforced}");

    let after = shop.pod(&suspect).await?.context("it still runs")?;
    ensure!(
        after["metadata"]["labels"] == json!({(ISOLATED): uid}),
        "{after}"
    );
    let mark = after["metadata"]["annotations"][ISOLATED].as_str();
    let mark: Value = serde_json::from_str(mark.context("a mark")?)?;
    ensure!(mark["labels"] == before["metadata"]["labels"], "{mark}");
    ensure!(mark["deployment"] == "web", "{mark}");
    let policy = format!("seawall.isolated.{uid}");
    let args = ["networkpolicy", "-n", SHOP, &policy];
    let stored = shop.fixture.get(&args).await?.context("it is stored")?;
    let spec = &stored["spec"];
    ensure!(
        spec["policyTypes"] == json!(["Egress", "Ingress"]),
        "{spec}"
    );
    ensure!(
        spec["egress"].as_array().is_none_or(Vec::is_empty),
        "{spec}"
    );
    ensure!(
        spec["ingress"][0]["from"][0]["ipBlock"]["cidr"] == "10.0.9.0/24",
        "{spec}"
    );
    let replacement = shop.labelled("web", 1).await?.remove(0);
    ensure!(replacement != suspect, "{replacement}");

    // A second Isolation, by the label that it had.
    shop.isolate(
        "two",
        json!({"podSelector": {"matchLabels": {"app": "web"}}}),
    )
    .await?;
    let noted = |count: usize| {
        let shop = &shop;
        let suspect = &suspect;
        eventually("the Isolations to be noted", PATIENCE, move || async move {
            let pod = shop.pod(suspect).await?.context("it still runs")?;
            let mark = pod["metadata"]["annotations"][ISOLATED].as_str();
            let mark: Value = serde_json::from_str(mark.context("a mark")?)?;
            let isolations = mark["isolations"].as_object().map_or(0, |all| all.len());
            Ok((isolations == count).then_some(()))
        })
    };
    noted(2).await?;
    shop.release("one").await?;
    noted(1).await?;
    // The label comes back, and goes again.
    let label = ["label", "pod", "-n", SHOP, &suspect, "app=web"];
    shop.fixture.plane.kubectl(&label).await?;
    eventually("the label to be gone again", PATIENCE, || async {
        let pod = shop.pod(&suspect).await?.context("it still runs")?;
        Ok((pod["metadata"]["labels"] == json!({(ISOLATED): uid})).then_some(()))
    })
    .await?;
    shop.release("two").await?;
    shop.gone(&suspect).await?;
    eventually("its NetworkPolicy to go", PATIENCE, || async {
        Ok(shop.fixture.get(&args).await?.is_none().then_some(()))
    })
    .await?;
    Ok(())
}

async fn by_labels() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let were: BTreeSet<String> = shop
        .run("Deployment", "web", 2)
        .await?
        .into_iter()
        .collect();
    shop.isolate(
        "all",
        json!({"podSelector": {"matchLabels": {"app": "web"}}}),
    )
    .await?;
    let stripped = || async {
        let names = shop.names(ISOLATED).await?;
        Ok((names == were).then_some(()))
    };
    eventually("both to lose their labels", PATIENCE, stripped).await?;
    let replacements = shop.labelled("web", 2).await?;
    for (number, pod) in replacements.iter().enumerate() {
        shop.start(pod, number + 101).await?;
    }
    shop.stands(
        "all",
        "Programmed",
        ("False", "NotEnforceable"),
        "runs free",
    )
    .await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(shop.names(ISOLATED).await? == were, "no more are stripped");
    ensure!(
        shop.labelled("web", 2).await? == replacements,
        "nor replaced"
    );
    Ok(())
}

async fn refused() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let pod = shop.run("StatefulSet", "db", 1).await?.remove(0);
    let before = shop.pod(&pod).await?.context("it runs")?["metadata"]["labels"].clone();
    shop.isolate("db", json!({"pod": pod})).await?;
    let words = "db-0 is a pod of StatefulSet db";
    shop.stands("db", "Programmed", ("False", "NotEnforceable"), words)
        .await?;
    let web = shop.run("Deployment", "web", 1).await?.remove(0);
    let open = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "open", "namespace": SHOP},
        "spec": {"podSelector": {}, "ingress": [{}]},
    });
    shop.fixture.apply(&open).await?;
    shop.isolate("web", json!({"pod": web})).await?;
    let words = "NetworkPolicy shop/open selects pods whatever their labels";
    shop.stands("web", "Programmed", ("False", "NotEnforceable"), words)
        .await?;
    ensure!(shop.names(ISOLATED).await?.is_empty(), "nobody is stripped");
    let after = shop.pod(&pod).await?.context("it runs")?["metadata"]["labels"].clone();
    ensure!(before == after, "{after}");
    // What stands in the way goes, and it is done.
    let delete = ["delete", "networkpolicy", "-n", SHOP, "open"];
    shop.fixture.plane.kubectl(&delete).await?;
    shop.stands("web", "Programmed", ("True", "ReadBack"), "release deletes")
        .await
}

async fn not_granted() -> anyhow::Result<()> {
    let mut fixture = Fixture::prepare().await?;
    fixture.plane.kubectl(&["create", "ns", SHOP]).await?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
    fixture.apply(&node).await?;
    let binding = ["delete", "clusterrolebinding", "seawall-workloads"];
    fixture.plane.kubectl(&binding).await?;
    let operator = fixture.add_operator(&WITHOUT_AGENT)?;
    fixture.wait_ready(operator).await?;
    fixture.wait_leading(operator).await?;
    let shop = Shop { fixture };
    let pod = shop.run("Deployment", "web", 1).await?.remove(0);
    shop.isolate("one", json!({"pod": pod})).await?;
    let words = "it may not get pods, patch pods, delete pods";
    shop.stands("one", "Programmed", ("False", "NotEnforceable"), words)
        .await?;
    ensure!(
        shop.names(ISOLATED).await?.is_empty(),
        "nothing is stripped"
    );
    let writes = shop.fixture.log(0)?.matches("trying again").count();
    ensure!(writes == 0, "nothing is tried: {}", shop.fixture.log(0)?);
    Ok(())
}

async fn held() -> anyhow::Result<()> {
    let mut shop = Shop::open().await?;
    let pods = shop.run("Deployment", "web", 7).await?;
    for pod in &pods {
        let isolation = json!({
            "apiVersion": "seawall.dev/v1alpha1", "kind": "Isolation",
            "metadata": {"name": pod, "namespace": SHOP},
            "spec": {"target": {"workload": {"pod": pod}}, "reason": "test"},
        });
        shop.fixture.apply(&isolation).await?;
    }
    let all: BTreeSet<String> = pods.iter().cloned().collect();
    eventually("all to lose their labels", PATIENCE, || async {
        Ok((shop.names(ISOLATED).await? == all).then_some(()))
    })
    .await?;
    shop.fixture.wait_in_force(0, 7).await?;
    // One is released while nobody looks.
    shop.fixture.kill(0)?;
    shop.release(&pods[0]).await?;
    shop.fixture.start_operator(0, &WITHOUT_AGENT)?;
    shop.fixture.wait_ready(0).await?;
    shop.gone(&pods[0]).await?;
    // Releases of more than ten seconds ago don't count.
    tokio::time::sleep(Duration::from_secs(11)).await;
    shop.fixture.kill(0)?;
    let delete = ["delete", "isolation", "-n", SHOP, "--all"];
    shop.fixture.plane.kubectl(&delete).await?;
    shop.fixture.start_operator(0, &WITHOUT_AGENT)?;
    shop.fixture.wait_ready(0).await?;
    let id = eventually("a hold", PATIENCE, || async {
        let text = shop.fixture.seawall(&["release", "holds"]).await?;
        let mut words = text.split_whitespace();
        Ok(words
            .find(|word| word.starts_with("hold_"))
            .map(str::to_owned))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let rest: BTreeSet<String> = pods[1..].iter().cloned().collect();
    ensure!(shop.names(ISOLATED).await? == rest, "all are still there");
    shop.fixture.seawall(&["release", "confirm", &id]).await?;
    for pod in &rest {
        shop.gone(pod).await?;
    }
    ensure!(
        shop.labelled("web", 7).await?.len() == 7,
        "their replacements run"
    );
    Ok(())
}
