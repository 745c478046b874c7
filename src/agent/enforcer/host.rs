//! What is rendered depends on how this host's bridges are set and which accounts it has, which others may
//! change at any time.

use super::{Enforcer, Wanted};
use crate::agent::nft::{BridgeTable, Rendered, families_around};
use crate::domain::enforcement::DeviceState;

impl Enforcer {
    /// After a look at the settings, where they matter.
    pub(super) async fn render_as_things_are(&mut self, state: &DeviceState) -> Rendered {
        if !state.wards.is_empty() {
            let bridges = &mut self.situation.bridges;
            let before = bridges.shortcoming(state);
            bridges.around = families_around();
            if !bridges.around.is_empty() && bridges.table == BridgeTable::Unsupported {
                bridges.table = BridgeTable::try_out(self.table.nft()).await;
            }
            let shortcoming = bridges.shortcoming(state);
            if let Some(words) = shortcoming.filter(|now| before.as_ref() != Some(now)) {
                tracing::warn!("{words}");
            }
        }
        self.look_up_accounts(state).await;
        self.render(state)
    }

    /// What was changed meanwhile needs other tables, which is nobody's tampering.
    pub(super) async fn follow_the_host(&mut self) {
        let Wanted::Bundle(in_force) = &self.wanted else {
            return;
        };
        let state = in_force.state.clone();
        let suspended = self.accounts();
        let rendered = self.render_as_things_are(&state).await;
        let Wanted::Bundle(in_force) = &mut self.wanted else {
            return;
        };
        if in_force.rendered == rendered {
            return;
        }
        tracing::info!("bridges or accounts of this host changed, and the rules with them");
        in_force.rendered = rendered.clone();
        let brought = match self.table.read().await {
            Ok(_) => self.table.bring_about(&rendered).await,
            Err(error) => Err(error),
        };
        if let Err(error) = brought {
            tracing::error!("the rules could not follow what changed on this host: {error}");
        }
        self.end_sockets(&suspended, &state).await;
    }
}
