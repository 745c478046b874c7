//! One kind of our resources as its watch tells of it: the facts go into the World, and what the
//! World has no use for (status, version, when it was seen) stays here for the status writer.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::domain::facts::Facts;
use crate::domain::names::ObjectKey;
use crate::domain::world::Resource;
use crate::watch::{Change, Malformed, Watched};

/// What is known of one kind.
#[derive(Debug)]
pub struct Tracked<Status> {
    /// Why the list can't be had, while it can't.
    lost: Option<String>,
    /// It was read at least once.
    read: bool,
    /// Shared with readers: a change copies it only while somebody reads.
    pub objects: Arc<BTreeMap<ObjectKey, Beside<Status>>>,
    pub malformed: BTreeMap<ObjectKey, Malformed>,
    /// Something here changed since it was last asked.
    changed: bool,
}

/// What stands beside a resource's facts.
#[derive(Clone, Debug, PartialEq)]
pub struct Beside<Status> {
    pub uid: String,
    pub generation: i64,
    pub status: Option<Status>,
    pub resource_version: String,
    /// When the process saw this generation first.
    pub seen: Timestamp,
    pub written_by: Option<String>,
    /// What an agent gave as its reason, and its intent's entry in the audit log.
    pub reason: Option<String>,
    pub intent: Option<String>,
}

/// What a change did to the facts.
#[derive(Debug, PartialEq)]
pub struct Taken<Spec> {
    /// They are different now.
    pub facts: bool,
    /// Resources that are gone from the API server.
    pub gone: Vec<(ObjectKey, Resource<Spec>)>,
}

impl<Status> Default for Tracked<Status> {
    fn default() -> Self {
        Self {
            lost: None,
            read: false,
            objects: Arc::default(),
            malformed: BTreeMap::new(),
            changed: false,
        }
    }
}

impl<Status: Clone> Tracked<Status> {
    /// Whether anything changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn objects_mut(&mut self) -> &mut BTreeMap<ObjectKey, Beside<Status>> {
        self.changed = true;
        Arc::make_mut(&mut self.objects)
    }

    /// Whether the list was ever read; while it is lost later, it stays as it was last known.
    pub fn was_read(&self) -> bool {
        self.read
    }

    /// Why the list can't be had now, if it can't.
    pub fn waiting_for(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Brings `facts` up to date. What can't be read any more keeps its last readable form: an edit
    /// that breaks an Isolation must not lift it.
    pub fn take<Spec: PartialEq>(
        &mut self,
        facts: &mut Facts<ObjectKey, Resource<Spec>>,
        change: Change<Watched<Spec, Status>>,
    ) -> Taken<Spec> {
        let mut taken = Taken {
            facts: false,
            gone: Vec::new(),
        };
        match change {
            Change::Apply(key, watched) => self.apply(facts, key, watched, &mut taken),
            Change::Malformed(malformed) => self.not_readable(facts, malformed, &mut taken),
            Change::Delete(key) => self.remove(facts, &key, &mut taken),
            Change::Reset { objects, malformed } => {
                self.reset(facts, objects, malformed, &mut taken);
            }
            Change::Lost { why } => self.lost = Some(why),
        }
        taken
    }

    fn apply<Spec: PartialEq>(
        &mut self,
        facts: &mut Facts<ObjectKey, Resource<Spec>>,
        key: ObjectKey,
        watched: Watched<Spec, Status>,
        taken: &mut Taken<Spec>,
    ) {
        self.malformed.remove(&key);
        self.remove_if_replaced(facts, &key, &watched.resource.uid, taken);
        let same_generation = self
            .objects
            .get(&key)
            .filter(|known| known.generation == watched.resource.generation);
        let beside = Beside {
            uid: watched.resource.uid.clone(),
            generation: watched.resource.generation,
            status: watched.status,
            resource_version: watched.resource_version,
            seen: same_generation.map_or(watched.seen, |known| known.seen),
            written_by: watched.resource.written_by.clone(),
            reason: watched.reason,
            intent: watched.intent,
        };
        self.objects_mut().insert(key.clone(), beside);
        // A status that was written comes back as a change too, and changes no fact.
        if facts.get(&key) != Some(&watched.resource) {
            facts.insert(key, watched.resource);
            taken.facts = true;
        }
    }

    fn not_readable<Spec>(
        &mut self,
        facts: &mut Facts<ObjectKey, Resource<Spec>>,
        malformed: Malformed,
        taken: &mut Taken<Spec>,
    ) {
        self.remove_if_replaced(facts, &malformed.key, &malformed.uid, taken);
        self.changed = true;
        self.malformed.insert(malformed.key.clone(), malformed);
    }

    /// Another object under the name of one that is known means that the known one is gone.
    fn remove_if_replaced<Spec>(
        &mut self,
        facts: &mut Facts<ObjectKey, Resource<Spec>>,
        key: &ObjectKey,
        uid: &str,
        taken: &mut Taken<Spec>,
    ) {
        if facts.get(key).is_some_and(|known| known.uid != uid) {
            self.remove(facts, key, taken);
        }
    }

    fn remove<Spec>(
        &mut self,
        facts: &mut Facts<ObjectKey, Resource<Spec>>,
        key: &ObjectKey,
        taken: &mut Taken<Spec>,
    ) {
        self.malformed.remove(key);
        self.objects_mut().remove(key);
        if let Some(resource) = facts.remove(key) {
            taken.facts = true;
            taken.gone.push((key.clone(), resource));
        }
    }

    /// The list is complete: exactly what is not in it is gone.
    fn reset<Spec: PartialEq>(
        &mut self,
        facts: &mut Facts<ObjectKey, Resource<Spec>>,
        objects: BTreeMap<ObjectKey, Watched<Spec, Status>>,
        malformed: Vec<Malformed>,
        taken: &mut Taken<Spec>,
    ) {
        self.lost = None;
        self.changed = true;
        // Before the first list nothing was compiled, so even an empty one is news.
        taken.facts = !std::mem::replace(&mut self.read, true);
        self.malformed.clear();
        let unreadable = |key: &ObjectKey| malformed.iter().any(|object| object.key == *key);
        let vanished: Vec<ObjectKey> = facts
            .keys()
            .filter(|key| !objects.contains_key(*key) && !unreadable(key))
            .cloned()
            .collect();
        for key in &vanished {
            self.remove(facts, key, taken);
        }
        for (key, watched) in objects {
            self.apply(facts, key, watched, taken);
        }
        for object in malformed {
            self.not_readable(facts, object, taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Facts = super::Facts<ObjectKey, Resource<u8>>;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("plant", name)
    }

    fn watched(uid: &str, generation: i64) -> Watched<u8, ()> {
        Watched {
            resource: Resource {
                uid: uid.to_owned(),
                generation,
                written_by: None,
                created: None,
                spec: 0,
            },
            status: None,
            resource_version: "1".to_owned(),
            created: None,
            seen: Timestamp::from_second(generation).expect("in range"),
            reason: None,
            intent: None,
        }
    }

    fn malformed(name: &str, uid: &str) -> Malformed {
        Malformed {
            key: key(name),
            uid: uid.to_owned(),
            generation: 9,
            resource_version: "9".to_owned(),
            status: None,
            why: "no".to_owned(),
        }
    }

    fn gone_uids(taken: &Taken<u8>) -> Vec<&str> {
        let gone = taken.gone.iter();
        gone.map(|(_, resource)| resource.uid.as_str()).collect()
    }

    fn known(names: &[&str]) -> (Tracked<()>, Facts) {
        let (mut tracked, mut facts) = (Tracked::default(), Facts::default());
        let objects = names
            .iter()
            .map(|name| (key(name), watched(name, 1)))
            .collect();
        let malformed = Vec::new();
        tracked.take(&mut facts, Change::Reset { objects, malformed });
        (tracked, facts)
    }

    #[test]
    fn a_relist_removes_exactly_what_vanished() {
        let (mut tracked, mut facts) = known(&["a", "b", "c"]);
        let change = Change::Reset {
            objects: [(key("a"), watched("a", 1)), (key("d"), watched("d", 1))].into(),
            malformed: vec![malformed("c", "c")],
        };
        let gone = tracked.take(&mut facts, change);
        assert_eq!(gone_uids(&gone), ["b"]);
        let left: Vec<_> = facts.keys().map(|key| key.name.as_str()).collect();
        assert_eq!(left, ["a", "c", "d"]);
    }

    #[test]
    fn a_lost_list_removes_nothing_and_is_not_synced_until_the_next() {
        let (mut tracked, mut facts) = known(&["a"]);
        assert_eq!(tracked.waiting_for(), None);
        let why = "no such kind".to_owned();
        assert!(
            tracked
                .take(&mut facts, Change::Lost { why })
                .gone
                .is_empty()
        );
        assert_eq!(tracked.waiting_for(), Some("no such kind"));
        assert_eq!(facts.len(), 1);
        let empty = Change::Reset {
            objects: BTreeMap::new(),
            malformed: Vec::new(),
        };
        assert_eq!(gone_uids(&tracked.take(&mut facts, empty)), ["a"]);
        assert_eq!(tracked.waiting_for(), None);
    }

    #[test]
    fn an_object_that_becomes_unreadable_keeps_its_last_readable_form() {
        let (mut tracked, mut facts) = known(&["a"]);
        let gone = tracked.take(&mut facts, Change::Malformed(malformed("a", "a")));
        assert!(gone.gone.is_empty() && facts.contains_key(&key("a")));
        assert!(tracked.malformed.contains_key(&key("a")));
        let gone = tracked.take(&mut facts, Change::Malformed(malformed("a", "another")));
        assert_eq!(gone_uids(&gone), ["a"], "that was another object");
    }

    #[test]
    fn an_object_of_the_same_name_with_another_uid_means_that_the_first_is_gone() {
        let (mut tracked, mut facts) = known(&["a"]);
        let gone = tracked.take(&mut facts, Change::Apply(key("a"), watched("a2", 1)));
        assert_eq!(gone_uids(&gone), ["a"]);
        assert_eq!(facts[&key("a")].uid, "a2");
    }

    #[test]
    fn a_status_that_comes_back_changes_no_fact() {
        let (mut tracked, mut facts) = known(&["a"]);
        assert!(tracked.take_changed());
        let mut again = watched("a", 1);
        again.status = Some(());
        again.resource_version = "2".to_owned();
        let taken = tracked.take(&mut facts, Change::Apply(key("a"), again));
        assert!(!taken.facts && tracked.take_changed());
        let edited = tracked.take(&mut facts, Change::Apply(key("a"), watched("a", 2)));
        assert!(edited.facts);
    }

    #[test]
    fn the_time_of_a_generation_is_when_it_was_first_seen() {
        let (mut tracked, mut facts) = known(&["a"]);
        let mut again = watched("a", 1);
        again.seen = Timestamp::from_second(50).expect("in range");
        tracked.take(&mut facts, Change::Apply(key("a"), again));
        assert_eq!(tracked.objects[&key("a")].seen.as_second(), 1);
        tracked.take(&mut facts, Change::Apply(key("a"), watched("a", 60)));
        assert_eq!(tracked.objects[&key("a")].seen.as_second(), 60);
    }
}
