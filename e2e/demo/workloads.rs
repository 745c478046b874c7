//! The demo's cluster: two nodes, Seawall as helm installs it, and pods whose owner allows everything.

use anyhow::Context;

use super::PORT;
use super::traffic::Traffic;
use crate::cluster::node::{NodeOptions, Pod};
use crate::installed::{ALLOW_ALL, Agent, Installed};
use crate::lab::Responder;

pub const NAMESPACE: &str = "shop";

pub struct Workloads {
    pub agent: Option<Agent>,
    /// From the pod that gets isolated, to the others.
    pub suspect: Vec<Traffic>,
    /// Between pods that must not notice.
    pub others: Traffic,
    /// The pod's, and those of all others.
    pub pod: Responder,
    pub rest: Vec<Responder>,
    // The pods' namespaces are let go before the nodes end.
    pub pods: [Pod; 3],
    pub installed: Installed,
}

impl Workloads {
    pub async fn start() -> anyhow::Result<Self> {
        let nodes = ["node-1", "node-2"].map(|name| (name, NodeOptions::default()));
        let installed = Installed::start(&nodes, &[]).await?;
        let cluster = installed.cluster.clone();
        cluster.namespace(NAMESPACE).await?;
        let apply = ["apply", "-n", NAMESPACE, "-f", "-"];
        installed.kubectl(&apply, ALLOW_ALL).await?;
        let (one, two) = (installed.node("node-1"), installed.node("node-2"));
        let (web, db, far, outside) = tokio::try_join!(
            one.run_pod(NAMESPACE, "web-0", &[("app", "web")]),
            one.run_pod(NAMESPACE, "db-0", &[("app", "db")]),
            two.run_pod(NAMESPACE, "far-0", &[("app", "far")]),
            cluster.host("outside"),
        )
        .context("starting pods")?;
        let mut rest = Vec::new();
        for host in [&db.host, &far.host, &outside] {
            rest.push(Responder::start(host, PORT).await?);
        }
        let mut suspect = Vec::new();
        for other in &rest {
            suspect.push(Traffic::open(&[&web.host], other.host()).await?);
            suspect.push(Traffic::open(&[other.host()], &web.host).await?);
        }
        Ok(Self {
            agent: None,
            suspect,
            others: Traffic::open(&[&db.host], &far.host).await?,
            pod: Responder::start(&web.host, PORT).await?,
            rest,
            pods: [web, db, far],
            installed,
        })
    }
}
