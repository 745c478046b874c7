//! Sessions of clients that speak the revisions before 2026-07-28. A session belongs to the key that
//! began it. One key holds few at a time, the oldest gives way; all together there is a limit.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::Stream;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::WorkerTransport;
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, LocalSessionWorker,
};
use rmcp::transport::streamable_http_server::session::{
    ServerSseMessage, SessionId, SessionManager,
};

/// A session that nobody used for so long ends.
const IDLE: Duration = Duration::from_secs(30 * 60);

tokio::task_local! {
    /// The hash of the key whose request is being served.
    pub static KEY: String;
}

#[derive(Debug)]
pub struct Sessions {
    inner: LocalSessionManager,
    owners: Mutex<HashMap<SessionId, Owner>>,
    most_of_a_key: usize,
    most: usize,
}

#[derive(Clone, Debug)]
struct Owner {
    key: String,
    since: Instant,
}

#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    #[error(transparent)]
    Local(#[from] LocalSessionManagerError),
    #[error("there are too many sessions: end some, or wait until idle ones end")]
    TooMany,
    #[error("a session begins with a key")]
    NoKey,
}

impl Sessions {
    pub fn new(most_of_a_key: usize, most: usize) -> Self {
        let mut inner = LocalSessionManager::default();
        inner.session_config.keep_alive = Some(IDLE);
        Self {
            inner,
            owners: Mutex::default(),
            most_of_a_key,
            most,
        }
    }

    /// Whether a request with this key may name the session. Sessions that don't exist are nobody's.
    pub fn is_foreign(&self, session: &str, key: &str) -> bool {
        let owners = self.owners.lock().expect("nobody panics holding it");
        owners.get(session).is_some_and(|owner| owner.key != key)
    }

    pub fn count(&self) -> usize {
        self.owners.lock().expect("nobody panics holding it").len()
    }

    pub fn is_full(&self) -> bool {
        self.count() >= self.most
    }

    /// The oldest session of a key that has its fill.
    fn surplus_of(&self, key: &str) -> Option<SessionId> {
        let owners = self.owners.lock().expect("nobody panics holding it");
        let mut own: Vec<_> = owners
            .iter()
            .filter(|(_, owner)| owner.key == key)
            .map(|(id, owner)| (owner.since, id.clone()))
            .collect();
        own.sort();
        let surplus = own.len() >= self.most_of_a_key;
        own.into_iter().next().filter(|_| surplus).map(|(_, id)| id)
    }
}

impl SessionManager for Sessions {
    type Error = SessionsError;
    type Transport = WorkerTransport<LocalSessionWorker>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let key = KEY
            .try_with(String::clone)
            .map_err(|_| SessionsError::NoKey)?;
        if let Some(oldest) = self.surplus_of(&key) {
            self.close_session(&oldest).await?;
        }
        if self.is_full() {
            return Err(SessionsError::TooMany);
        }
        let (id, transport) = self.inner.create_session().await?;
        let owner = Owner {
            key,
            since: Instant::now(),
        };
        self.owners
            .lock()
            .expect("nobody panics holding it")
            .insert(id.clone(), owner);
        Ok((id, transport))
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.owners
            .lock()
            .expect("nobody panics holding it")
            .remove(id);
        Ok(self.inner.close_session(id).await?)
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        Ok(self.inner.initialize_session(id, message).await?)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        Ok(self.inner.has_session(id).await?)
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.inner.create_stream(id, message).await?)
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), Self::Error> {
        Ok(self.inner.accept_message(id, message).await?)
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.inner.create_standalone_stream(id).await?)
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.inner.resume(id, last_event_id).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn begin(sessions: &Sessions, key: &str) -> Result<SessionId, SessionsError> {
        let created = KEY.scope(key.to_owned(), sessions.create_session()).await;
        created.map(|(id, _)| id)
    }

    #[tokio::test]
    async fn a_session_is_its_keys_alone() {
        let sessions = Sessions::new(8, 8);
        let id = begin(&sessions, "a").await.expect("begun");
        assert!(!sessions.is_foreign(&id, "a"));
        assert!(sessions.is_foreign(&id, "b"));
        assert!(!sessions.is_foreign("made-up", "b"));
        sessions.close_session(&id).await.expect("closed");
        assert_eq!(sessions.count(), 0);
    }

    #[tokio::test]
    async fn a_keys_oldest_session_gives_way_and_others_stay() {
        let sessions = Sessions::new(2, 8);
        let other = begin(&sessions, "b").await.expect("begun");
        let first = begin(&sessions, "a").await.expect("begun");
        let second = begin(&sessions, "a").await.expect("begun");
        let third = begin(&sessions, "a").await.expect("begun");
        let there = async |id| sessions.has_session(id).await.expect("an answer");
        assert!(!there(&first).await);
        assert!(there(&second).await && there(&third).await && there(&other).await);
    }

    #[tokio::test]
    async fn beyond_the_limit_of_all_keys_none_begins() {
        let sessions = Sessions::new(8, 1);
        begin(&sessions, "a").await.expect("begun");
        assert!(matches!(
            begin(&sessions, "b").await,
            Err(SessionsError::TooMany)
        ));
        assert!(matches!(
            sessions.create_session().await,
            Err(SessionsError::NoKey)
        ));
    }
}
