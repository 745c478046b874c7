//! The server, over HTTP: one POST for each message, its answer as JSON or as a stream, and for a
//! session the stream of what the server sends by itself. A session that the server no longer knows is
//! begun again as it was, without the program noticing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{RequestBuilder, Response, Url};
use serde_json::Value;
use sse_stream::SseStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::message::{Message, error_line, header_value};
use crate::backoff::Backoff;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

const CONNECT: Duration = Duration::from_secs(10);
/// Servers send a sign of life every 15 seconds on a stream, and answer sooner.
const SILENCE: Duration = Duration::from_secs(90);
/// Of our own making, in the range that JSON-RPC leaves to implementations.
const NOT_CARRIED: i32 = -32000;

pub struct Upstream {
    http: reqwest::Client,
    url: Url,
    out: mpsc::Sender<String>,
    session: Mutex<Session>,
    /// Requests on their way that stand alone, to be dropped when the program cancels them.
    standalone: Mutex<HashMap<String, CancellationToken>>,
    /// One at a time begins a lost session again.
    renewal: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Session {
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
    /// What began it.
    initialize: Option<String>,
}

impl Upstream {
    pub fn new(
        url: Url,
        key: &str,
        ca_file: Option<&Path>,
        out: mpsc::Sender<String>,
    ) -> anyhow::Result<Self> {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {key}"))
            .context("SEAWALL_API_KEY holds characters that no key has")?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, bearer);
        let mut client = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            // A key is for this server and for nobody it points to.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(path) = ca_file {
            let pem =
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("{} holds no certificates", path.display()))?;
            client = client.tls_certs_merge(certificates);
        }
        Ok(Self {
            http: client.build().context("cannot make an HTTP client")?,
            url,
            out,
            session: Mutex::default(),
            standalone: Mutex::default(),
            renewal: tokio::sync::Mutex::new(()),
        })
    }

    /// Sends a message and prints what comes back. A request is always answered.
    pub async fn carry(&self, message: Message) {
        if self.cancelled(&message) {
            return;
        }
        let token = self.register(&message);
        let carried = self.exchange(&message);
        let result = tokio::select! {
            result = carried => result,
            () = token.cancelled() => Ok(()),
        };
        if let Some(id) = &message.id {
            self.in_flight().remove(&id.to_string());
        }
        if let Err(words) = result {
            eprintln!("seawall: {words}");
            if message.id.is_some() {
                self.print(error_line(message.id.as_ref(), NOT_CARRIED, &words))
                    .await;
            }
        }
    }

    /// A request that stands alone is cancelled by hanging up.
    fn cancelled(&self, message: &Message) -> bool {
        let Some(id) = &message.cancels else {
            return false;
        };
        let token = self.in_flight().remove(&id.to_string());
        token.inspect(CancellationToken::cancel).is_some()
    }

    fn register(&self, message: &Message) -> CancellationToken {
        let token = CancellationToken::new();
        if let Some(id) = message.id.as_ref().filter(|_| message.stands_alone()) {
            self.in_flight().insert(id.to_string(), token.clone());
        }
        token
    }

    fn in_flight(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.standalone.lock().expect("nobody panics holding it")
    }

    fn session(&self) -> Session {
        self.session
            .lock()
            .expect("nobody panics holding it")
            .clone()
    }

    async fn exchange(&self, message: &Message) -> Result<(), String> {
        let before = self.session();
        let mut response = self.post(message, &before).await?;
        let lost = response.status() == StatusCode::NOT_FOUND
            && before.id.is_some()
            && !message.stands_alone()
            && !message.begins_session()
            && !is_json(&response);
        if lost {
            self.renew(&before).await?;
            response = self.post(message, &self.session()).await?;
        }
        if message.begins_session() {
            self.remember(message, &response);
        }
        self.deliver(message, response).await
    }

    async fn post(&self, message: &Message, session: &Session) -> Result<Response, String> {
        let mut request = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .body(message.line.clone());
        if message.stands_alone() {
            let pairs = [
                (VERSION, &message.version),
                (METHOD, &message.method),
                (NAME, &message.name),
            ];
            for (name, value) in pairs {
                if let Some(value) = value {
                    request = request.header(name, header_value(value));
                }
            }
        } else if !message.begins_session() {
            request = with_session(request, session);
        }
        self.send(request).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, String> {
        request.send().await.map_err(|error| {
            let why = std::error::Error::source(&error).map(ToString::to_string);
            let why = why.unwrap_or_else(|| error.to_string());
            format!(
                "{} can't be reached ({why}): is SEAWALL_URL right, and the server up?",
                self.url
            )
        })
    }

    /// Keeps what later messages of the session need.
    fn remember(&self, message: &Message, response: &Response) {
        if response.status() == StatusCode::OK {
            *self.session.lock().expect("nobody panics holding it") = Session {
                id: response.headers().get(SESSION).cloned(),
                version: None,
                initialize: Some(message.line.clone()),
            };
        }
    }

    /// Begins the session again as it was begun.
    async fn renew(&self, lost: &Session) -> Result<(), String> {
        let _one = self.renewal.lock().await;
        if self.session().id != lost.id {
            return Ok(());
        }
        let line = lost.initialize.clone().unwrap_or_default();
        let initialize = Message::read(line).map_err(|_| "the session is lost".to_owned())?;
        let response = self.post(&initialize, &Session::default()).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        self.remember(&initialize, &response);
        self.session
            .lock()
            .expect("nobody panics holding it")
            .version = lost.version.clone();
        let line = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let initialized = Message::read(line.into()).map_err(|_| "unreadable".to_owned())?;
        // The answer to the handshake is dropped: the program has had its own.
        drop(response);
        self.post(&initialized, &self.session()).await.map(drop)
    }

    /// Prints what a response holds.
    async fn deliver(&self, message: &Message, response: Response) -> Result<(), String> {
        let status = response.status();
        if status == StatusCode::ACCEPTED || status == StatusCode::NO_CONTENT {
            return Ok(());
        }
        if status == StatusCode::OK && is_stream(&response) {
            let answered = self.pass_on(message, response, &mut None).await;
            return match (answered, &message.id) {
                (false, Some(_)) => Err(
                    "the connection to the server was lost before it answered: what was asked may \
                     have been done, so look before asking again"
                        .into(),
                ),
                _ => Ok(()),
            };
        }
        if !is_json(&response) {
            return Err(refusal(response).await);
        }
        let body = response
            .bytes()
            .await
            .map_err(|error| format!("the server's answer broke off: {error}"))?;
        match serde_json::from_slice::<Value>(&body) {
            Ok(answer) if answer["jsonrpc"] == "2.0" => {
                self.learn(message, &answer);
                self.print(answer.to_string()).await;
                Ok(())
            }
            Ok(problem) => Err(in_words(status, problem["error_description"].as_str())),
            Err(_) => Err(in_words(status, None)),
        }
    }

    /// Prints the messages of a stream; whether the answer to `message` was among them.
    async fn pass_on(
        &self,
        message: &Message,
        response: Response,
        last_event: &mut Option<String>,
    ) -> bool {
        let mut events = SseStream::from_bytes_stream(response.bytes_stream());
        let mut answered = false;
        while let Some(Ok(event)) = events.next().await {
            if event.id.is_some() {
                *last_event = event.id;
            }
            let Some(data) = event.data.filter(|data| !data.trim().is_empty()) else {
                continue;
            };
            let Ok(value) = serde_json::from_str::<Value>(&data) else {
                eprintln!("seawall: the server sent something that is no message");
                continue;
            };
            let is_answer = value.get("method").is_none();
            answered |= is_answer && value.get("id") == message.id.as_ref();
            self.learn(message, &value);
            self.print(value.to_string()).await;
        }
        answered
    }

    /// The revision that a handshake agreed on goes with each later message.
    fn learn(&self, message: &Message, answer: &Value) {
        let version = answer["result"]["protocolVersion"].as_str();
        if let Some(version) = version.filter(|_| message.begins_session()) {
            self.session
                .lock()
                .expect("nobody panics holding it")
                .version = HeaderValue::from_str(version).ok();
        }
    }

    /// What the server sends by itself in a session, until the session ends.
    pub async fn listen(&self) {
        let nothing = Message {
            line: String::new(),
            id: None,
            method: None,
            version: None,
            name: None,
            cancels: None,
        };
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut last_event = None;
        loop {
            let session = self.session();
            if session.id.is_none() {
                return;
            }
            let mut request = with_session(self.http.get(self.url.clone()), &session)
                .header(ACCEPT, "text/event-stream");
            if let Some(id) = &last_event {
                request = request.header(LAST_EVENT, id);
            }
            match request.send().await {
                Ok(response) if response.status() == StatusCode::OK => {
                    backoff.reset();
                    self.pass_on(&nothing, response, &mut last_event).await;
                }
                // No such stream here. A lost session is begun again by the next request.
                Ok(response) if response.status() == StatusCode::METHOD_NOT_ALLOWED => return,
                Ok(_) | Err(_) => last_event = None,
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// Tells the server that the session is over.
    pub async fn end_session(&self) {
        let session = self.session();
        if session.id.is_none() {
            return;
        }
        let request = with_session(self.http.delete(self.url.clone()), &session);
        // An idle session ends by itself.
        let _ = request.timeout(Duration::from_secs(2)).send().await;
    }

    async fn print(&self, line: String) {
        // Only a closed standard output makes this fail, and then nobody reads.
        let _ = self.out.send(line).await;
    }
}

fn with_session(mut request: RequestBuilder, session: &Session) -> RequestBuilder {
    if let Some(id) = &session.id {
        request = request.header(SESSION, id.clone());
    }
    if let Some(version) = &session.version {
        request = request.header(VERSION, version.clone());
    }
    request
}

fn has_type(response: &Response, kind: &str) -> bool {
    let value = response.headers().get(CONTENT_TYPE);
    value
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.to_ascii_lowercase().starts_with(kind))
}

fn is_json(response: &Response) -> bool {
    has_type(response, "application/json")
}

fn is_stream(response: &Response) -> bool {
    has_type(response, "text/event-stream")
}

async fn refusal(response: Response) -> String {
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    in_words(status, Some(text.as_str()).filter(|text| !text.is_empty()))
}

fn in_words(status: StatusCode, words: Option<&str>) -> String {
    match words {
        Some(words) => format!("the server refused ({}): {words}", status.as_u16()),
        None => format!("the server answered {status}, which is no MCP: is SEAWALL_URL right?"),
    }
}
