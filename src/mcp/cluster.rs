//! The API server, as an agent. This server's own identity can impersonate the agents' ServiceAccounts
//! and do nothing else; what an agent may read and write is decided by its own RBAC and by admission.
//!
//! Impersonating the user is enough: for the name of a ServiceAccount the API server itself adds the
//! groups of ServiceAccounts, so no permission for groups is asked for.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use http::{HeaderName, HeaderValue, Request};
use kube::client::Body;
use kube::{Client, Config};

use super::answer::Failure;
use crate::access::Principal;
use crate::api::stamps;
use crate::user_agent::{self, Part};

const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");
/// Agents whose client is kept.
const MOST_CLIENTS: usize = 256;

pub struct Cluster {
    own: Client,
    agents: Mutex<HashMap<String, Client>>,
}

impl Cluster {
    /// With the credentials of this server's own identity.
    pub fn new(mut config: Config) -> anyhow::Result<Self> {
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(10));
        config.write_timeout = Some(Duration::from_secs(10));
        user_agent::tell(&mut config, Part::Mcp);
        let own = Client::try_from(config).context("cannot make a client of the API server")?;
        Ok(Self {
            own,
            agents: Mutex::default(),
        })
    }

    /// A client whose every request is the agent's. They share this server's connections.
    pub fn as_agent(&self, principal: &Principal) -> Result<Client, Failure> {
        let user = &principal.user;
        // Never anybody else, whatever the operator says.
        let header = HeaderValue::from_str(user)
            .ok()
            .filter(|_| stamps::scope_of_user(user).is_some())
            .ok_or_else(|| Failure::unavailable("this key belongs to no agent"))?;
        let mut agents = self.agents.lock().expect("nobody panics holding it");
        if let Some(client) = agents.get(user) {
            return Ok(client.clone());
        }
        if agents.len() >= MOST_CLIENTS {
            agents.clear();
        }
        let own = self.own.clone();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            request
                .headers_mut()
                .insert(IMPERSONATE_USER, header.clone());
            let own = own.clone();
            async move { own.send(request).await }
        });
        let client = Client::new(service, principal.tenant.clone());
        agents.insert(user.clone(), client.clone());
        Ok(client)
    }
}
