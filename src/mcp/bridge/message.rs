//! What the bridge has to know of a JSON-RPC message to carry it. Everything else passes as it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The revision since which requests stand alone and name themselves in headers.
const STANDALONE: &str = "2026-07-28";
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// One message from the program.
#[derive(Debug, Clone)]
pub struct Message {
    /// As it was read, on one line.
    pub line: String,
    /// Of a request.
    pub id: Option<Value>,
    pub method: Option<String>,
    /// The revision that the message names for itself; none in a session's messages.
    pub version: Option<String>,
    /// What `Mcp-Name` says of it.
    pub name: Option<String>,
    /// The request that this notification cancels.
    pub cancels: Option<Value>,
}

impl Message {
    /// Or the line that answers what is no message.
    pub fn read(line: String) -> Result<Self, String> {
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            return Err(error_line(None, -32700, "that is no JSON on one line"));
        };
        if value["jsonrpc"] != "2.0" {
            let words = "that is no JSON-RPC 2.0 message";
            return Err(error_line(value.get("id"), -32600, words));
        }
        let method = value["method"].as_str().map(str::to_owned);
        let params = &value["params"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let is_request = method.is_some();
        let cancelled = method.as_deref() == Some("notifications/cancelled");
        Ok(Self {
            id: value.get("id").filter(|_| is_request).cloned(),
            version: text(&params["_meta"][VERSION_KEY]),
            name: match method.as_deref() {
                Some("tools/call" | "prompts/get") => text(&params["name"]),
                Some("resources/read") => text(&params["uri"]),
                _ => None,
            },
            cancels: Some(params["requestId"].clone()).filter(|id| cancelled && !id.is_null()),
            method,
            // A line that was read over several would be several messages.
            line: value.to_string(),
        })
    }

    pub fn begins_session(&self) -> bool {
        self.method.as_deref() == Some("initialize")
    }

    pub fn ends_handshake(&self) -> bool {
        self.method.as_deref() == Some("notifications/initialized")
    }

    /// A request of the revisions without sessions.
    pub fn stands_alone(&self) -> bool {
        self.version
            .as_deref()
            .is_some_and(|version| version >= STANDALONE)
    }
}

/// An answer that the bridge gives because no server did.
pub fn error_line(id: Option<&Value>, code: i32, words: &str) -> String {
    let id = id.cloned().unwrap_or(Value::Null);
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": words}}).to_string()
}

/// A value that is fit for a header: as it is, or in the form `=?base64?…?=`.
pub fn header_value(text: &str) -> String {
    let plain = text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        && text.trim() == text
        && !text.starts_with("=?base64?");
    if plain {
        text.to_owned()
    } else {
        format!("=?base64?{}?=", STANDARD.encode(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Message {
        Message::read(value.to_string()).expect("a message")
    }

    #[test]
    fn a_request_that_stands_alone_is_told_from_a_sessions() {
        let meta = json!({VERSION_KEY: "2026-07-28"});
        let alone = read(
            json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "get_device", "_meta": meta}}),
        );
        assert!(alone.stands_alone());
        assert_eq!(alone.id, Some(json!(7)));
        assert_eq!(alone.name.as_deref(), Some("get_device"));
        let session = read(json!({"jsonrpc": "2.0", "id": "a", "method": "tools/list"}));
        assert!(!session.stands_alone() && !session.begins_session());
        let initialize = read(
            json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2026-07-28"}}),
        );
        assert!(initialize.begins_session() && !initialize.stands_alone());
    }

    #[test]
    fn answers_and_notifications_have_no_id_of_a_request() {
        assert_eq!(
            read(json!({"jsonrpc": "2.0", "id": 3, "result": {}})).id,
            None
        );
        let cancel = read(
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 3}}),
        );
        assert_eq!((cancel.id, cancel.cancels), (None, Some(json!(3))));
    }

    #[test]
    fn what_is_no_message_is_answered_as_the_protocol_says() {
        let answer = |line: &str| Message::read(line.into()).err().unwrap_or_default();
        assert!(answer("{").contains("-32700"));
        assert!(answer("[]").contains("-32600"));
        assert!(answer(r#"{"id": 1, "method": "ping"}"#).contains(r#""id":1"#));
    }

    #[test]
    fn names_that_no_header_takes_are_encoded() {
        assert_eq!(header_value("get_device"), "get_device");
        assert_eq!(header_value("é"), "=?base64?w6k=?=");
        assert_eq!(header_value(" x"), "=?base64?IHg=?=");
    }
}
