//! What the chart's RBAC grants, one verb on one resource at a time.

use std::fmt;

use anyhow::{Context, bail};
use serde_json::Value;

use super::{AGENT_ROLES, Who};
use crate::charts::SYSTEM;

/// One verb that somebody may use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub who: Who,
    /// None: in every namespace, and on what has none.
    pub namespace: Option<String>,
    pub verb: String,
    pub group: String,
    /// With a subresource as `resource/subresource`.
    pub resource: String,
    /// None: of whatever name.
    pub name: Option<String>,
    /// Where it stands in the chart.
    pub role: String,
}

impl Right {
    /// Whether whoever holds `self` needs no `other`.
    pub fn includes(&self, other: &Self) -> bool {
        let wider = |own: &Option<String>, others: &Option<String>| own.is_none() || own == others;
        self.who == other.who
            && self.verb == other.verb
            && self.group == other.group
            && self.resource == other.resource
            && wider(&self.namespace, &other.namespace)
            && wider(&self.name, &other.name)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.who, self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}")?,
            None => write!(f, " everywhere")?,
        }
        write!(f, " ({})", self.role)
    }
}

/// What these objects grant to operator, MCP server, agents on nodes and AI agents. Rights for people are
/// left out: they hang on the cluster's own roles.
pub fn granted(objects: &[Value]) -> anyhow::Result<Vec<Right>> {
    let mut rights = Vec::new();
    for binding in objects {
        let cluster_wide = match binding["kind"].as_str() {
            Some("ClusterRoleBinding") => true,
            Some("RoleBinding") => false,
            _ => continue,
        };
        let namespace = binding["metadata"]["namespace"].as_str();
        let role = role_of(objects, binding)?;
        for who in subjects(binding)? {
            let bound = namespace.filter(|_| !cluster_wide);
            rights.extend(rights_of(role, who, bound)?);
        }
    }
    // The operator binds these, in a tenant's namespace.
    for name in AGENT_ROLES {
        let role = objects
            .iter()
            .find(|it| it["kind"] == "ClusterRole" && it["metadata"]["name"] == name)
            .with_context(|| format!("the chart has a ClusterRole {name}"))?;
        let who = Who::Agent(Some(name.to_owned()));
        rights.extend(rights_of(role, who, Some(super::TENANT))?);
    }
    rights.sort();
    rights.dedup();
    Ok(rights)
}

fn role_of<'a>(objects: &'a [Value], binding: &Value) -> anyhow::Result<&'a Value> {
    let wanted = &binding["roleRef"];
    let found = objects.iter().find(|it| {
        it["kind"] == wanted["kind"]
            && it["metadata"]["name"] == wanted["name"]
            && (it["kind"] == "ClusterRole"
                || it["metadata"]["namespace"] == binding["metadata"]["namespace"])
    });
    found.with_context(|| format!("the chart binds {wanted}, which it doesn't have"))
}

fn subjects(binding: &Value) -> anyhow::Result<Vec<Who>> {
    let subjects = binding["subjects"].as_array().context("subjects")?.iter();
    subjects
        .map(|subject| {
            let account = (subject["namespace"].as_str(), subject["name"].as_str());
            match (subject["kind"].as_str(), account) {
                (Some("ServiceAccount"), (Some(SYSTEM), Some("seawall"))) => Ok(Who::Operator),
                (Some("ServiceAccount"), (Some(SYSTEM), Some("seawall-mcp"))) => Ok(Who::Mcp),
                (Some("ServiceAccount"), (Some(SYSTEM), Some("seawall-agent"))) => Ok(Who::Node),
                _ => bail!("the chart binds {subject}, which nobody knows here"),
            }
        })
        .collect()
}

fn rights_of(role: &Value, who: Who, bound: Option<&str>) -> anyhow::Result<Vec<Right>> {
    let kind = role["kind"].as_str().context("a kind")?;
    let name = role["metadata"]["name"].as_str().context("a name")?;
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().context("rules")? {
        let resources = texts(&rule["resources"]);
        anyhow::ensure!(
            !resources.is_empty(),
            "{kind} {name} has a rule without resources"
        );
        let names: Vec<_> = texts(&rule["resourceNames"])
            .into_iter()
            .map(Some)
            .collect();
        let names = if names.is_empty() { vec![None] } else { names };
        for group in texts(&rule["apiGroups"]) {
            for resource in &resources {
                for verb in texts(&rule["verbs"]) {
                    rights.extend(names.iter().map(|of| Right {
                        who: who.clone(),
                        namespace: bound.map(str::to_owned),
                        verb: verb.clone(),
                        group: group.clone(),
                        resource: resource.clone(),
                        name: of.clone(),
                        role: format!("{kind} {name}"),
                    }));
                }
            }
        }
    }
    Ok(rights)
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|it| it.as_str().map(str::to_owned))
        .collect()
}
