//! Since when the rules for a device's wards are in force, as far as that was seen since this operator started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::desired::Desired;
use super::proto;

/// Two tellings of one moment are not further apart.
const RETELLING: SignedDuration = SignedDuration::from_secs(2);

#[derive(Default)]
pub struct Covered {
    /// When each ward came under its rules.
    at: Arc<BTreeMap<String, Timestamp>>,
    /// When the device's agent had brought its rules about again that it had found gone, after a reboot say.
    restored_at: Option<Timestamp>,
}

impl Covered {
    pub fn at(&self) -> Arc<BTreeMap<String, Timestamp>> {
        Arc::clone(&self.at)
    }

    pub fn restored_at(&self) -> Option<Timestamp> {
        self.restored_at
    }

    /// The device told whether its rules had been gone. Whether that is news: told again and again, it is the
    /// same moment but for the time that the telling takes.
    pub fn restored(&mut self, applied: &proto::Applied, at: Timestamp) -> bool {
        let Some(ago) = applied.restored_ms_ago else {
            return false;
        };
        let Ok(restored) = at.checked_sub(Duration::from_millis(ago)) else {
            return false;
        };
        let known = self.restored_at.map(|known| restored.duration_since(known));
        let news = known.is_none_or(|later| later > RETELLING);
        if news {
            self.restored_at = Some(restored);
        }
        news
    }

    /// Takes note of wards that are new since the state before.
    pub fn moved(&mut self, before: &Desired, now: &Desired, at: Timestamp) {
        if before.wards == now.wards {
            return;
        }
        let addresses = |state: &Desired, ward: &String| {
            let applied = state.wards.get(ward);
            applied.map(|applied| applied.addresses.clone())
        };
        let covered = now.wards.keys().filter_map(|ward| {
            let same = addresses(before, ward) == addresses(now, ward);
            let at = if same { *self.at.get(ward)? } else { at };
            Some((ward.clone(), at))
        });
        self.at = Arc::new(covered.collect());
    }
}
