//! The protocol's handler: what this server is, the list of tools, and the way from a call to its
//! tool. Both eras of the protocol come here; `rmcp` tells them apart.

use std::sync::Arc;

use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CompleteRequestMethod,
    CompleteRequestParams, CompleteResult, ConstString, CustomRequest, CustomResult, ErrorCode,
    Implementation, JsonObject, ListPromptsRequestMethod, ListPromptsResult,
    ListResourceTemplatesRequestMethod, ListResourceTemplatesResult, ListResourcesRequestMethod,
    ListResourcesResult, ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig,
    Tool as Definition,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use tokio_util::task::TaskTracker;

use super::call::{Call, Shared};
use super::front::Caller;
use super::text::clean;
use super::tools;
use crate::access::{Circumstances, Decision, Intent, Principal, Rate, Tool};
use crate::local::types::Program;

#[derive(Clone)]
pub struct Handler {
    pub shared: Arc<Shared>,
    /// Calls that are running: one goes on to its audit entry when its client has gone.
    pub calls: TaskTracker,
}

impl Handler {
    /// The tools that the scope allows, by the same decision that each call meets.
    fn listed(&self, principal: &Principal) -> Vec<Definition> {
        let circumstances = Circumstances {
            now: jiff::Timestamp::now(),
            calls: Rate::Within,
            actions: Rate::Within,
        };
        Tool::ALL
            .into_iter()
            .filter(|tool| {
                let intent = Intent::of(*tool);
                (self.shared.decide)(principal, &intent, &circumstances) == Decision::Allow
            })
            .map(|tool| tools::definition(tool).clone())
            .collect()
    }
}

/// Who calls, as the layer in front left it on this very request.
fn caller(context: &RequestContext<RoleServer>) -> Result<Caller, ErrorData> {
    context
        .extensions
        .get::<http::request::Parts>()
        .and_then(|parts| parts.extensions.get::<Caller>())
        .cloned()
        .ok_or_else(|| ErrorData::internal_error("a request without a caller", None))
}

fn not_there<T, M: ConstString>() -> Result<T, ErrorData> {
    Err(ErrorData::method_not_found::<M>())
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let server =
            Implementation::new("seawall", env!("CARGO_PKG_VERSION")).with_title("Seawall");
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(server)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = self.listed(&caller(&context)?.principal);
        // A scope can change at any time, and its list is its own.
        Ok(ListToolsResult::with_all_items(tools)
            .with_ttl_ms(0)
            .with_cache_scope(CacheScope::Private))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let caller = caller(&context)?;
        let Some(tool) = Tool::from_name(&request.name) else {
            return Err(ErrorData::invalid_params(
                "there is no tool of that name: tools/list gives those there are",
                None,
            ));
        };
        let arguments: JsonObject = request.arguments.unwrap_or_default();
        let client = context.client_info().map(|client| Program {
            name: clean(&client.name, 128),
            version: clean(&client.version, 64),
        });
        let call = Call::new(tool, caller, client, arguments, self.shared.clone());
        let answer = self.calls.spawn(call.run()).await.map_err(|error| {
            tracing::error!(%error, tool = tool.name(), "a call died");
            ErrorData::internal_error("the call failed inside the server, which logged why", None)
        })?;
        let result = match answer {
            Ok(reply) => reply.into_result(),
            Err(failure) => failure.into_result(),
        };
        Ok(result.into())
    }

    fn get_tool(&self, name: &str) -> Option<Definition> {
        Tool::from_name(name).map(|tool| tools::definition(tool).clone())
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let method = clean(&request.method, 64);
        // What the protocol's types could not read comes here, too.
        if method == "tools/call" || method == "tools/list" {
            let words = format!(
                "the params of {method} can't be read: tools/call takes name, and arguments, an object; tools/list takes cursor"
            );
            return Err(ErrorData::invalid_params(words, None));
        }
        let words =
            format!("there is no method {method:?}: this server has tools/list and tools/call");
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, words, None))
    }

    // What is not declared is not there, rather than empty.

    async fn complete(
        &self,
        _request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        not_there::<_, CompleteRequestMethod>()
    }

    async fn list_prompts(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        not_there::<_, ListPromptsRequestMethod>()
    }

    async fn list_resources(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        not_there::<_, ListResourcesRequestMethod>()
    }

    async fn list_resource_templates(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        not_there::<_, ListResourceTemplatesRequestMethod>()
    }
}
