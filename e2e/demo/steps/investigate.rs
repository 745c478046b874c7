//! Reads are allowed, actions are not: by us, and by the API server on its own.

use serde_json::json;

use super::super::Demo;
use crate::site::TENANT;

pub async fn run(demo: &mut Demo) -> anyhow::Result<String> {
    let site = &demo.site;
    let agent = site.agent("investigator", "Investigate", None).await?;
    let listed = agent.must("list_devices", json!({})).await?;
    let count = listed.structured["devices"].as_array().map_or(0, Vec::len);
    anyhow::ensure!(count == 3, "three devices are enrolled, {count} listed");

    let tools = agent.tools().await?;
    anyhow::ensure!(
        !tools.iter().any(|tool| tool == "isolate_device"),
        "isolate_device is listed for an Investigate key"
    );
    let device = &site.device("ws-1").id;
    let arguments = json!({"device_id": device, "reason": "try what is not allowed"});
    let by_us = match agent.call("isolate_device", arguments).await {
        Ok(answer) if !answer.is_error => anyhow::bail!("we let it isolate: {}", answer.text),
        Ok(answer) => answer.text,
        Err(error) => format!("{:#}", error.root_cause()),
    };
    let by_api_server = write_as_the_agent(demo, device).await?;
    Ok(format!(
        "{count} devices; we said: {by_us} — the API server said: {by_api_server}"
    ))
}

/// Writes the Isolation past our own check, with the MCP server's identity acting as the agent.
async fn write_as_the_agent(demo: &Demo, device: &str) -> anyhow::Result<String> {
    let plane = &demo.site.plane;
    let mcp = plane
        .kubeconfig_for(crate::site::SYSTEM, "seawall-mcp")
        .await?;
    let isolation = json!({
        "apiVersion": "seawall.dev/v1alpha1",
        "kind": "Isolation",
        "metadata": {"name": "past-our-check", "namespace": TENANT},
        "spec": {"target": {"device": device}, "reason": "try what is not allowed"},
    });
    let user = format!("system:serviceaccount:seawall-agents:{TENANT}.investigator");
    let args = ["create", "--as", &user, "-f", "-"];
    let outcome = plane
        .kubectl_as(&mcp, &args, &isolation.to_string())
        .await?;
    anyhow::ensure!(!outcome.status.success(), "the API server let it isolate");
    anyhow::ensure!(
        outcome.stderr.contains("forbidden"),
        "refused for another reason: {}",
        outcome.stderr
    );
    Ok(outcome.stderr.trim().to_owned())
}
