//! Who is let in: keys, origins, sessions, sizes, and an operator that is away.

use libtest_mimic::Trial;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use super::stand::Stand;
use crate::harness::case;
use crate::tests::admission::tenant::{DEVICE, containing};
use seawall::access::key;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a request without a key that works is told what to do",
            keys,
        ),
        case(
            "a scope that is disabled or expires refuses its key at the next request",
            disabled,
        ),
        case(
            "a foreign origin, a foreign host and a body too large are refused",
            headers,
        ),
        case("a session is of no use to another key", sessions),
        case(
            "what is not declared is not there, in both eras",
            undeclared,
        ),
        case(
            "nothing is done while the operator is away, and readiness says so",
            away,
        ),
        case("the server ends when it is told to, sessions and all", ends),
    ]
}

fn post(stand: &Stand, key: Option<&str>, body: &Value) -> RequestBuilder {
    let request = Client::new()
        .post(&stand.url)
        .header("accept", "application/json, text/event-stream")
        .json(body);
    match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    }
}

fn initialize() -> Value {
    json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    })
}

fn modern(method: &str) -> Value {
    json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": method,
        "params": {"_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }},
    })
}

/// Asserts a 401 with a challenge; its words.
async fn refused(response: Response) -> anyhow::Result<String> {
    assert_eq!(response.status(), 401);
    let challenge = response.headers()["www-authenticate"].to_str()?.to_owned();
    assert!(challenge.starts_with("Bearer realm="), "{challenge}");
    let body: Value = response.json().await?;
    assert_eq!(body["error"], "invalid_token");
    Ok(body["error_description"]
        .as_str()
        .unwrap_or_default()
        .into())
}

async fn keys() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-keys").await?;
    stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let words = refused(post(&stand, None, &initialize()).send().await?).await?;
    assert!(words.contains("seawall keys create"), "{words}");
    let other = post(&stand, Some("ghp_something"), &initialize());
    let words = refused(other.send().await?).await?;
    assert!(words.contains("no Seawall key"), "{words}");
    let unknown = post(&stand, Some(&key::generate()), &initialize());
    let words = refused(unknown.send().await?).await?;
    assert!(words.contains("no ApiKeyScope holds this key"), "{words}");
    for method in [http::Method::GET, http::Method::DELETE] {
        let request = Client::new().request(method, &stand.url);
        refused(request.send().await?).await?;
    }
    let page = reqwest::get(stand.url.replace("/mcp", "/metrics")).await?;
    let page = page.text().await?;
    for reason in ["missing", "malformed", "unknown"] {
        let line = format!("seawall_mcp_keys_refused_total{{reason=\"{reason}\"}}");
        assert!(page.contains(&line), "{page}");
    }
    stand.end().await
}

async fn disabled() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-disabled").await?;
    let key = stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let client = stand.client(&key).await?;
    client.tools().await?;
    let change = |change: fn(&mut seawall::api::ApiKeyScopeSpec)| {
        stand.operator.change("mcp-disabled", "bot", change);
    };
    change(|spec| spec.disabled = true);
    let words = refused(post(&stand, Some(&key), &initialize()).send().await?).await?;
    assert!(words.contains("is disabled"), "{words}");
    assert!(client.ask("list_devices", json!({})).await.is_err());
    change(|spec| {
        spec.disabled = false;
        spec.expires_at = Some(jiff::Timestamp::UNIX_EPOCH);
    });
    let words = refused(post(&stand, Some(&key), &initialize()).send().await?).await?;
    assert!(words.contains("expired at 1970"), "{words}");
    change(|spec| spec.expires_at = None);
    client.call("list_devices", json!({})).await?;
    stand.end().await
}

async fn headers() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-headers").await?;
    let key = stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let from =
        |origin: &'static str| post(&stand, Some(&key), &initialize()).header("origin", origin);
    for origin in [
        "https://evil.example",
        "http://localhost.evil.example",
        "null",
    ] {
        assert_eq!(from(origin).send().await?.status(), 403, "{origin}");
    }
    for origin in ["http://localhost:6274", "https://console.example"] {
        assert_eq!(from(origin).send().await?.status(), 200, "{origin}");
    }
    let to = |host: &'static str| post(&stand, Some(&key), &initialize()).header("host", host);
    assert_eq!(to("rebound.example").send().await?.status(), 403);
    assert_eq!(to("seawall.example").send().await?.status(), 200);

    let mut large = initialize();
    large["params"]["clientInfo"]["name"] = "x".repeat(2 * 1024 * 1024).into();
    let answer = post(&stand, Some(&key), &large).send().await?;
    assert_eq!(answer.status(), 413);
    stand.end().await
}

async fn sessions() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-sessions").await?;
    let own = stand.agent("one", containing(&[DEVICE]), &[DEVICE]).await?;
    let other = stand.agent("two", containing(&[DEVICE]), &[DEVICE]).await?;
    let begun = post(&stand, Some(&own), &initialize()).send().await?;
    let session = begun.headers()["mcp-session-id"].to_str()?.to_owned();
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    let ask = |key: &str| {
        post(&stand, Some(key), &list)
            .header("mcp-session-id", &session)
            .header("mcp-protocol-version", "2025-11-25")
    };
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let sent = post(&stand, Some(&own), &initialized)
        .header("mcp-session-id", &session)
        .send()
        .await?;
    assert_eq!(sent.status(), 202);
    assert_eq!(ask(&other).send().await?.status(), 404);
    for method in [http::Method::GET, http::Method::DELETE] {
        let answer = Client::new()
            .request(method, &stand.url)
            .bearer_auth(&other)
            .header("accept", "text/event-stream")
            .header("mcp-session-id", &session)
            .send()
            .await?;
        assert_eq!(answer.status(), 404);
    }
    let answer = ask(&own).send().await?;
    assert_eq!(answer.status(), 200);
    let text = answer.text().await?;
    assert!(text.contains("isolate_device"), "{text}");
    stand.end().await
}

async fn undeclared() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-undeclared").await?;
    let key = stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let client = stand.client(&key).await?;
    let info = client
        .client
        .peer_info()
        .map(|info| serde_json::to_value(&*info));
    let capabilities = info.transpose()?.unwrap_or_default()["capabilities"].clone();
    assert_eq!(capabilities, json!({"tools": {}}));
    let refused = client.client.list_prompts(None).await.err();
    assert!(format!("{refused:?}").contains("-32601"), "{refused:?}");
    for method in [
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "ping",
    ] {
        let answer = post(&stand, Some(&key), &modern(method))
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", method)
            .send()
            .await?;
        assert_eq!(answer.status(), 404, "{method}");
        let body: Value = answer.json().await?;
        assert_eq!(body["error"]["code"], -32601, "{method}");
    }
    stand.end().await
}

async fn away() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-away").await?;
    let key = stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let probe = |path: &str| reqwest::get(stand.url.replace("/mcp", path));
    assert_eq!(probe("/live").await?.status(), 200);
    assert_eq!(probe("/ready").await?.status(), 200);
    let client = stand.client(&key).await?;
    stand.send_operator_away();
    let arguments = json!({"device_id": DEVICE, "reason": "test", "ttl": "30m"});
    assert!(client.ask("isolate_device", arguments).await.is_err());
    let answer = post(&stand, Some(&key), &initialize()).send().await?;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let words = answer.text().await?;
    assert!(words.contains("the operator does not answer"), "{words}");
    assert_eq!(probe("/live").await?.status(), 200);
    assert_eq!(probe("/ready").await?.status(), 503);
    stand.end().await
}

async fn ends() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-ends").await?;
    let key = stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let client = stand.client(&key).await?;
    client.tools().await?;
    let began = std::time::Instant::now();
    stand.end().await?;
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    Ok(())
}
