//! In which order states are sent: what tightens before what loosens, and the device that gets isolated
//! before its peers.

use std::collections::BTreeMap;

use super::Compiled;
use crate::domain::enforcement::DeviceState;
use crate::domain::names::DeviceId;

type Wave = BTreeMap<DeviceId, DeviceState>;

impl Compiled {
    /// Every device's state, in the order to send. `before` is what was sent last, if anything was.
    pub fn waves(&self, before: Option<&Compiled>) -> Vec<Wave> {
        let mut waves: [Wave; 3] = Default::default();
        for (id, state) in &self.enforcement.devices {
            let last = before.and_then(|before| before.enforcement.devices.get(id));
            waves[turn(last, state)].insert(id.clone(), state.clone());
        }
        waves.into_iter().filter(|wave| !wave.is_empty()).collect()
    }
}

/// 0 for a device that is isolated now, 1 for what can only be tighter, 2 for what may be looser.
fn turn(last: Option<&DeviceState>, state: &DeviceState) -> usize {
    let Some(last) = last else {
        return if state.isolation.is_some() { 0 } else { 1 };
    };
    if state.isolation.is_some() && last.isolation != state.isolation {
        return 0;
    }
    let loosens = (last.isolation.is_some() && state.isolation.is_none())
        || !last.quarantined.is_subset(&state.quarantined)
        || !state.quarantine_paths.is_subset(&last.quarantine_paths)
        || last.rules != state.rules && !only_adds_denials(last, state)
        || last.defaults != state.defaults;
    if loosens { 2 } else { 1 }
}

/// The old rules in their order, with nothing but denials between them.
fn only_adds_denials(last: &DeviceState, state: &DeviceState) -> bool {
    let mut old = last.rules.iter().peekable();
    for rule in &state.rules {
        if old.peek() == Some(&rule) {
            old.next();
        } else if rule.action != crate::api::Action::Deny {
            return false;
        }
    }
    old.peek().is_none()
}
