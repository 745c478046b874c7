//! Scopes and keys of AI agents, made as a person makes them.

use super::{McpClient, PATIENCE, Site, TENANT};

impl Site {
    /// Makes a scope and a key for it. `targets` is the scope's YAML below `targets:`, in flow style, such as
    /// `{devices: {all: true}}`; none for a scope that acts on nothing.
    pub async fn scope(
        &self,
        name: &str,
        access: &str,
        targets: Option<&str>,
    ) -> anyhow::Result<String> {
        let targets = targets.map(|targets| format!("  targets: {targets}\n"));
        let spec = format!("  access: {access}\n{}", targets.unwrap_or_default());
        self.plane.scope((TENANT, name), &spec, PATIENCE).await
    }

    /// Makes one more key for a scope.
    pub async fn key(&self, scope: &str) -> anyhow::Result<String> {
        self.plane.key((TENANT, scope), PATIENCE).await
    }

    /// The agent itself: a client with a key of a new scope.
    pub async fn agent(
        &self,
        name: &str,
        access: &str,
        targets: Option<&str>,
    ) -> anyhow::Result<McpClient> {
        let key = self.scope(name, access, targets).await?;
        McpClient::connect(&self.mcp_url(), &key).await
    }

    /// The agent of a scope, which is made unless it is there.
    pub async fn agent_once(&self, name: &str, access: &str) -> anyhow::Result<McpClient> {
        if self.get("apikeyscope", name).await?.is_none() {
            return self.agent(name, access, None).await;
        }
        let key = self.key(name).await?;
        McpClient::connect(&self.mcp_url(), &key).await
    }
}
