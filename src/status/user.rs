//! The status of an Isolation of a user: the devices that drop what the accounts send, the API server that
//! refuses the writes, and the scopes whose keys are refused. Some of a user is always out of reach, and said.

use super::conditions::Finding;
use super::{Points, count};
use crate::api::Phase;
use crate::api::isolation::AccountCoverage;
use crate::domain::applied::Applied;
use crate::domain::enforcement::Source;
use crate::domain::verdict::SuspendedUser;
use crate::domain::words::{a_few, a_few_words};

pub struct UserFacts<'a> {
    user: &'a SuspendedUser,
    devices: Points<'a>,
    /// Devices on which an account of the user exists, and is dropped.
    with_account: usize,
    /// Accounts that are left alone, each with where.
    spared: Vec<String>,
    writes: Writes,
}

/// Whether the API server holds that it has to refuse the user's writes.
enum Writes {
    Nobody,
    Refused,
    Waiting,
    Obstacle { reason: &'static str, why: String },
}

impl<'a> UserFacts<'a> {
    pub fn of(user: &'a SuspendedUser, applied: &Applied, source: &Source) -> Self {
        let devices = Points::of(&user.devices, applied, source);
        let mut with_account = 0;
        let mut spared = Vec::new();
        for id in &devices.programmed {
            let Some(device) = applied.devices.get(*id) else {
                continue;
            };
            let accounts = &device.accounts;
            with_account += usize::from(!accounts.dropped.is_disjoint(&user.os));
            let left_alone = accounts.spared.intersection(&user.os);
            spared.extend(left_alone.map(|account| format!("{account} on {id}")));
        }
        Self {
            user,
            devices,
            with_account,
            spared,
            writes: Writes::of(user, applied),
        }
    }

    /// Whether the API server holds all the names whose writes it is to refuse, and there are some.
    pub fn writes_refused(&self) -> bool {
        matches!(self.writes, Writes::Refused)
    }

    /// Whether a connected device, or the API server, is still to say that it has it.
    pub fn waits(&self) -> bool {
        !self.devices.waiting.is_empty()
            || matches!(self.writes, Writes::Waiting | Writes::Obstacle { .. })
    }

    /// Whether there is nothing at all that could refuse the user.
    pub fn matches_nothing(&self) -> bool {
        self.devices.all.is_empty()
            && self.user.scopes.is_empty()
            && matches!(self.writes, Writes::Nobody)
    }

    pub fn coverage(&self) -> AccountCoverage {
        let matched = count(&self.devices.all);
        let programmed = count(&self.devices.programmed);
        AccountCoverage {
            matched,
            programmed,
            with_account: i32::try_from(self.with_account).unwrap_or(i32::MAX),
            summary: format!("{programmed}/{matched}"),
        }
    }

    pub fn phase(&self) -> Phase {
        let something = !self.devices.programmed.is_empty()
            || !self.user.scopes.is_empty()
            || self.writes_refused();
        match (something, self.programmed().is_true()) {
            (_, true) => Phase::Suspended,
            (true, false) => Phase::Partial,
            (false, false) => Phase::Pending,
        }
    }

    pub fn programmed(&self) -> Finding {
        if !self.devices.refused.is_empty() {
            let refused = a_few_words(&self.devices.refused);
            return Finding::no("Refused", self.words(&refused));
        }
        if !self.devices.waiting.is_empty() {
            let waiting = format!("waiting for {}", a_few(&self.devices.waiting));
            return Finding::no("Waiting", self.words(&waiting));
        }
        match &self.writes {
            Writes::Waiting => {
                return Finding::no("Waiting", self.words("waiting for the API server"));
            }
            Writes::Obstacle { reason, why } => return Finding::no(reason, self.words(why)),
            Writes::Nobody if self.user.scopes.is_empty() => return self.on_devices_alone(),
            Writes::Nobody | Writes::Refused => {}
        }
        Finding::yes("ReadBack", self.words(&self.offline()))
    }

    fn on_devices_alone(&self) -> Finding {
        if self.devices.all.is_empty() {
            return Finding::no(
                "NothingMatched",
                "there is nothing yet that could refuse the user: no device of this namespace, no Kubernetes name, and no scope of that name",
            );
        }
        match self.devices.programmed.is_empty() {
            true => Finding::no("Offline", self.words(&self.offline())),
            false => Finding::yes("ReadBack", self.words(&self.offline())),
        }
    }

    /// Never wholly: some of what a user can do no part of Seawall sees.
    pub fn enforced(&self) -> Finding {
        let programmed = self.programmed();
        if !programmed.is_true() {
            return programmed;
        }
        let outside = format!("not refused: {}", outside(self.user).join("; "));
        Finding::no("Partial", format!("{}; {outside}", programmed.message))
    }

    fn offline(&self) -> String {
        match self.devices.offline.is_empty() {
            true => String::new(),
            false => format!("not connected: {}", a_few(&self.devices.offline)),
        }
    }

    /// How far each part is, and what is beside it.
    fn words(&self, beside: &str) -> String {
        let mut words = Vec::new();
        if !self.devices.all.is_empty() {
            words.push(format!(
                "{} of {} devices have read it back, and {} of them have such an account ({})",
                self.devices.programmed.len(),
                self.devices.all.len(),
                self.with_account,
                a_few(&self.user.os)
            ));
        }
        if self.writes_refused() {
            let place = match &self.user.namespace {
                Some(namespace) => format!("in namespace {namespace}"),
                None => "in the whole cluster".to_owned(),
            };
            let users = a_few(&self.user.kubernetes);
            words.push(format!("the API server refuses writes of {users} {place}"));
        }
        if !self.user.scopes.is_empty() {
            let scopes = a_few(&self.user.scopes);
            words.push(format!("the keys of {scopes} are refused"));
        }
        if !self.spared.is_empty() {
            let spared = a_few(&self.spared);
            words.push(format!(
                "left alone, being root or the agent's own account: {spared}"
            ));
        }
        if !self.user.nodes.is_empty() {
            let nodes = self.user.nodes.len();
            words.push(format!(
                "not on {nodes} nodes of the cluster, whose agents see no accounts"
            ));
        }
        words.extend((!beside.is_empty()).then(|| beside.to_owned()));
        words.join("; ")
    }
}

/// What the user can do still, and no part of Seawall refuses.
pub fn outside(user: &SuspendedUser) -> Vec<&'static str> {
    let mut outside = Vec::new();
    if !user.kubernetes.is_empty() {
        outside.push("what the user reads from the API server, for admission sees no reads: take the RoleBindings away");
        outside.push("an administrator's changes of admission policies themselves");
    }
    outside.push("sessions at an identity provider and other services: end them there");
    outside
}

impl Writes {
    fn of(user: &SuspendedUser, applied: &Applied) -> Self {
        let mut users = user.kubernetes.iter();
        let namespace = user.namespace.as_deref();
        if user.kubernetes.is_empty() {
            return Self::Nobody;
        }
        if users.all(|user| applied.suspended_users.holds(namespace, user)) {
            return Self::Refused;
        }
        match &applied.suspended_users_obstacle {
            Some(obstacle) => Self::Obstacle {
                reason: obstacle.kind.as_str(),
                why: obstacle.message.clone(),
            },
            None => Self::Waiting,
        }
    }
}
