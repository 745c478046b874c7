//! An AI agent's side of MCP: a real client over Streamable HTTP, with a key.

use std::time::{Duration, Instant};

use anyhow::Context;
use rmcp::model::{CallToolRequestParams, CallToolResult};
use rmcp::service::RunningService;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{RoleClient, ServiceExt};
use serde_json::Value;

/// No tool answers later than this.
const CALL: Duration = Duration::from_secs(20);

pub struct McpClient {
    service: RunningService<RoleClient, ()>,
}

/// What a tool answered, and when.
#[derive(Debug)]
pub struct Answer {
    pub is_error: bool,
    pub text: String,
    pub structured: Value,
    /// From the call to the answer.
    pub took: Duration,
}

impl McpClient {
    pub async fn connect(url: &str, key: &str) -> anyhow::Result<Self> {
        Self::connect_by(reqwest::Client::default(), url, key).await
    }

    /// By a client that trusts others than the machine does.
    pub async fn connect_by(http: reqwest::Client, url: &str, key: &str) -> anyhow::Result<Self> {
        let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(key);
        let transport = StreamableHttpClientTransport::with_client(http, config);
        let service = tokio::time::timeout(CALL, ().serve(transport))
            .await
            .context("the MCP server did not answer the first message")??;
        Ok(Self { service })
    }

    /// Names of the tools that the key may use.
    pub async fn tools(&self) -> anyhow::Result<Vec<String>> {
        let tools = tokio::time::timeout(CALL, self.service.list_all_tools()).await??;
        Ok(tools.into_iter().map(|tool| tool.name.into()).collect())
    }

    /// Calls a tool. An error of the tool is an answer; an error of the protocol is an error.
    pub async fn call(&self, tool: &'static str, arguments: Value) -> anyhow::Result<Answer> {
        let arguments = arguments
            .as_object()
            .cloned()
            .context("arguments are an object")?;
        let params = CallToolRequestParams::new(tool).with_arguments(arguments);
        let start = Instant::now();
        let result = tokio::time::timeout(CALL, self.service.call_tool(params))
            .await
            .with_context(|| format!("{tool} did not answer"))?
            .with_context(|| format!("calling {tool}"))?;
        Ok(answer(&result, start.elapsed()))
    }

    /// Calls a tool that has to succeed.
    pub async fn must(&self, tool: &'static str, arguments: Value) -> anyhow::Result<Answer> {
        let answer = self.call(tool, arguments).await?;
        anyhow::ensure!(!answer.is_error, "{tool} answered: {}", answer.text);
        Ok(answer)
    }
}

fn answer(result: &CallToolResult, took: Duration) -> Answer {
    let text = result
        .content
        .iter()
        .filter_map(|block| block.as_text())
        .map(|text| text.text.as_str())
        .collect::<Vec<_>>()
        .join("\n");
    Answer {
        is_error: result.is_error.unwrap_or(false),
        text,
        structured: result.structured_content.clone().unwrap_or_default(),
        took,
    }
}
