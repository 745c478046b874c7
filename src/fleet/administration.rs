//! What people do to the fleet: join tokens, tags, revocation. Each change is told to the witness with
//! who made it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::join_token::JoinToken;
use super::records::JoinTokenRecord;
use super::witness::Happening;
use super::{Fleet, records, server};
use crate::domain::names::DeviceId;

const MOST_USES: u32 = 100_000;
const LONGEST_TTL: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const MOST_TAGS: usize = 32;
const LONGEST_TAG: usize = 63;
/// An epoch beyond this is a mistake or a lie.
const MOST_EPOCHS: u64 = 1 << 48;

#[derive(Debug, thiserror::Error)]
pub enum AdministrationError {
    #[error("{0}")]
    Invalid(String),
    #[error("there is no device {0}; `seawall fleet list` shows those that are enrolled")]
    NoSuchDevice(DeviceId),
    #[error(
        "no node {0} was revoked: `seawall fleet list` shows those that are enrolled, and the others enrol by themselves"
    )]
    NoSuchNode(String),
    #[error("there is no join token {0}; `seawall fleet join-token list` shows them")]
    NoSuchToken(String),
    #[error(
        "{0} is isolated, and its peers would let it in again: take it off the network first, then delete its Isolation, or revoke it with --release"
    )]
    Isolated(DeviceId),
    #[error("this replica of the operator does not lead; ask the one that does")]
    NotLeading,
    #[error("the store did not take it: {0:#}")]
    Store(#[from] anyhow::Error),
}

pub(super) type Done<T> = Result<T, AdministrationError>;

/// A join token to be made.
#[derive(Clone, Debug)]
pub struct NewJoinToken {
    pub tenant: String,
    pub tags: BTreeMap<String, String>,
    pub uses: u32,
    pub ttl: Duration,
}

/// Changes of a device's tags; what is in both is set.
#[derive(Clone, Debug, Default)]
pub struct TagChange {
    pub set: BTreeMap<String, String>,
    pub remove: BTreeSet<String>,
}

impl Fleet {
    /// Makes a token. Its text is answered this once: the store has a hash of its secret only.
    pub async fn create_join_token(
        &self,
        new: NewJoinToken,
        by: &str,
    ) -> Done<(JoinTokenRecord, String)> {
        self.check_leading()?;
        check_token(&new)?;
        if self.0.advertised.is_empty() {
            return Err(AdministrationError::Invalid(
                "the operator does not know where agents reach it: start it with its fleet addresses".to_owned(),
            ));
        }
        let now = records::now();
        let ttl = SignedDuration::try_from(new.ttl).unwrap_or(SignedDuration::MAX);
        let secret: [u8; 32] = rand::random();
        let record = JoinTokenRecord {
            id: format!("jt_{}", ulid::Ulid::generate().to_string().to_lowercase()),
            secret_sha256: Sha256::digest(secret).into(),
            tenant: new.tenant,
            tags: new.tags,
            created_at: now,
            created_by: by.to_owned(),
            expires_at: now.saturating_add(ttl).unwrap_or(Timestamp::MAX),
            uses_left: new.uses,
            revoked_at: None,
        };
        self.0.store.create_join_token(&record).await?;
        let happening = Happening::JoinTokenCreated {
            token: record.id.clone(),
            tags: record.tags.clone(),
            uses: new.uses,
            expires_at: record.expires_at,
        };
        self.tell(by.to_owned(), Some(record.tenant.clone()), happening);
        let text = JoinToken {
            id: record.id.clone(),
            secret,
            addresses: self.0.advertised.clone(),
            ca_certificate: self.0.keys.authority.certificate().to_vec(),
        };
        Ok((record, text.encode()))
    }

    /// Newest first.
    pub async fn join_tokens(&self) -> Done<Vec<JoinTokenRecord>> {
        Ok(self.0.store.join_tokens().await?)
    }

    /// Devices that enrolled with it stay.
    pub async fn revoke_join_token(&self, id: &str, by: &str) -> Done<()> {
        self.check_leading()?;
        let no_such = || AdministrationError::NoSuchToken(super::clean::line(id, 64));
        let token = self.0.store.join_token(id).await?.ok_or_else(no_such)?;
        if !self.0.store.revoke_join_token(id, records::now()).await? {
            return Err(no_such());
        }
        let token_id = token.id;
        let happening = Happening::JoinTokenRevoked { token: token_id };
        self.tell(by.to_owned(), Some(token.tenant), happening);
        Ok(())
    }

    /// Takes a device out of the fleet for good. Its stream ends now, and its peers no longer drop it; its
    /// host keeps the rules that it has until somebody stops the agent there and deletes the table. One
    /// that is isolated stays enrolled, unless `release` says that its quarantine may end.
    pub async fn revoke(&self, device: &DeviceId, release: bool, by: &str) -> Done<()> {
        self.check_leading()?;
        self.check_enrolled(device)?;
        if !release && self.is_isolated(device) {
            return Err(AdministrationError::Isolated(device.clone()));
        }
        self.0.store.revoke_device(device, records::now()).await?;
        let member = self.roster().revoke(device, server::revoked());
        let happening = Happening::DeviceRevoked {
            device: device.clone(),
        };
        let tenant = member.map(|member| member.record.tenant);
        self.tell(by.to_owned(), tenant, happening);
        self.facts_changed();
        Ok(())
    }

    /// Whether its state, as it should be, has it isolated.
    fn is_isolated(&self, device: &DeviceId) -> bool {
        let roster = self.roster();
        let desired = roster
            .members
            .get(device)
            .and_then(|it| it.desired.as_ref());
        desired.is_some_and(|desired| desired.state.isolation.is_some())
    }

    /// Answers with the tags as they are then.
    pub async fn change_tags(
        &self,
        device: &DeviceId,
        change: TagChange,
        by: &str,
    ) -> Done<BTreeMap<String, String>> {
        self.check_leading()?;
        let _one_at_a_time = self.0.tagging.lock().await;
        let mut tags = {
            let roster = self.roster();
            let member = roster.members.get(device);
            let member = member.ok_or_else(|| AdministrationError::NoSuchDevice(device.clone()))?;
            member.record.tags.clone()
        };
        tags.retain(|key, _| !change.remove.contains(key));
        tags.extend(change.set);
        check_tags(&tags)?;
        self.0.store.set_tags(device, &tags).await?;
        let mut tenant = None;
        if let Some(member) = self.roster().members.get_mut(device) {
            member.record.tags = tags.clone();
            tenant = Some(member.record.tenant.clone());
        }
        let happening = Happening::TagsChanged {
            device: device.clone(),
            tags: tags.clone(),
        };
        self.tell(by.to_owned(), tenant, happening);
        self.facts_changed();
        Ok(tags)
    }

    /// Goes on in an epoch later than `beyond`: for a store that was restored from a backup and is
    /// behind what devices have applied. Answers with the epoch.
    pub async fn advance_epoch(&self, beyond: u64, by: &str) -> Done<u64> {
        self.check_leading()?;
        if beyond > MOST_EPOCHS {
            return Err(AdministrationError::Invalid(format!(
                "{beyond} is no epoch that an operator can have reached: take it from the words in which a device was refused, and mistrust a device that says so"
            )));
        }
        let epoch = self.0.store.next_epoch(beyond).await?;
        self.roster().lead(epoch);
        self.tell(by.to_owned(), None, Happening::EpochAdvanced { epoch });
        Ok(epoch)
    }

    pub(super) fn check_leading(&self) -> Done<()> {
        if self.is_leading() {
            Ok(())
        } else {
            Err(AdministrationError::NotLeading)
        }
    }

    fn check_enrolled(&self, device: &DeviceId) -> Done<()> {
        if self.roster().members.contains_key(device) {
            Ok(())
        } else {
            Err(AdministrationError::NoSuchDevice(device.clone()))
        }
    }
}

fn invalid<T>(why: impl Into<String>) -> Done<T> {
    Err(AdministrationError::Invalid(why.into()))
}

fn check_token(new: &NewJoinToken) -> Done<()> {
    if !is_namespace(&new.tenant) {
        return invalid("the tenant has to be a namespace: lower-case letters, digits and -");
    }
    if !(1..=MOST_USES).contains(&new.uses) {
        return invalid(format!("uses has to be from 1 to {MOST_USES}"));
    }
    if new.ttl < Duration::from_secs(1) || new.ttl > LONGEST_TTL {
        return invalid("ttl has to be from a second to 90 days, such as 1h or 7d");
    }
    check_tags(&new.tags)
}

fn check_tags(tags: &BTreeMap<String, String>) -> Done<()> {
    if tags.len() > MOST_TAGS {
        return invalid(format!("a device has at most {MOST_TAGS} tags"));
    }
    for (key, value) in tags {
        if key.is_empty() || !is_tag_text(key) || !is_tag_text(value) {
            return invalid(format!(
                "{:?} is no tag: a key and a value have at most {LONGEST_TAG} letters, digits, '.', '_', '/' and '-'",
                super::clean::line(&format!("{key}={value}"), 130)
            ));
        }
    }
    Ok(())
}

fn is_tag_text(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
    text.len() <= LONGEST_TAG && text.bytes().all(allowed)
}

fn is_namespace(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(tenant: &str) -> NewJoinToken {
        NewJoinToken {
            tenant: tenant.to_owned(),
            tags: BTreeMap::from([("kind".to_owned(), "camera".to_owned())]),
            uses: 1,
            ttl: Duration::from_secs(3600),
        }
    }

    #[test]
    fn a_token_has_a_namespace_and_bounded_uses_and_life() {
        assert!(check_token(&new("acme")).is_ok());
        for tenant in ["", "Acme", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert!(check_token(&new(tenant)).is_err(), "{tenant:?}");
        }
        for uses in [0, MOST_USES + 1] {
            assert!(
                check_token(&NewJoinToken {
                    uses,
                    ..new("acme")
                })
                .is_err()
            );
        }
        for ttl in [Duration::ZERO, LONGEST_TTL + Duration::from_secs(1)] {
            assert!(check_token(&NewJoinToken { ttl, ..new("acme") }).is_err());
        }
    }

    #[test]
    fn tags_that_could_mislead_are_refused() {
        for (key, value) in [
            ("", "x"),
            ("a b", ""),
            ("k", "v\n"),
            ("k", &*"v".repeat(64)),
        ] {
            let tags = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            assert!(check_tags(&tags).is_err(), "{key:?}={value:?}");
        }
        let many = (0..=MOST_TAGS).map(|n| (format!("k{n}"), String::new()));
        assert!(check_tags(&many.collect()).is_err());
    }
}
