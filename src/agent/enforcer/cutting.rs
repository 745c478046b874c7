//! The end of connections that are open when a state no longer lets them pass.

use super::Enforcer;
use crate::agent::conntrack::{self, Containment};
use crate::agent::facts;
use crate::domain::enforcement::DeviceState;

impl Enforcer {
    /// Ends connections that `after` doesn't let pass. The rules drop their packets whether or not this
    /// succeeds, so a failure is told and holds up nothing.
    pub(super) async fn cut(&self, before: &DeviceState, after: &DeviceState) -> u32 {
        let local = facts::local_addresses();
        let pinned = self.situation.pinned.iter().copied();
        let before = Containment::new(before, pinned.clone(), local.iter().copied());
        let after = Containment::new(after, pinned, local);
        if before == after {
            return 0;
        }
        match tokio::task::spawn_blocking(move || conntrack::cut(&before, &after)).await {
            Ok(Ok(cut)) => cut.connections,
            Ok(Err(error)) => {
                tracing::error!(
                    "open connections are dropped by the rules, but not ended: {error}"
                );
                0
            }
            Err(error) => {
                tracing::error!("open connections were not ended: {error}");
                0
            }
        }
    }
}
