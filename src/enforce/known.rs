//! What an applier remembers between two rounds: the stored objects, what the API server made of our
//! writes, and which writes failed. No client here.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::core::DynamicObject;
use tokio::time::Instant;
use tracing::{info, warn};

use super::owned::{Owned, Placed, stored};
use super::plan::{Step, Stored, in_place, plan};
use crate::backoff::Backoff;
use crate::domain::applied::{Obstacle, ObstacleKind};
use crate::domain::names::ObjectKey;
use crate::watch::{Change, Raw};

pub struct Known<K: Owned> {
    /// `None` until the first list: then nothing is written, for nothing is known to be missing.
    stored: Option<BTreeMap<ObjectKey, Stored<K::Content>>>,
    /// Of each object that we wrote, what we asked for and what the API server made of it.
    accepted: BTreeMap<ObjectKey, (K::Content, K::Content)>,
    failed: BTreeMap<ObjectKey, Failure>,
}

/// What came of a step.
pub enum Outcome {
    Applied(Box<DynamicObject>),
    Deleted,
    /// Somebody else's object has the name.
    Blocked,
}

/// A write that did not work, and when to try again.
struct Failure {
    obstacle: Obstacle,
    backoff: Backoff,
    not_before: Instant,
}

impl<K: Owned> Default for Known<K> {
    fn default() -> Self {
        Self {
            stored: None,
            accepted: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }
}

impl<K: Owned> Known<K> {
    pub fn observe(&mut self, change: Change<Stored<K::Content>>) {
        match change {
            Change::Apply(key, object) => self.saw(key, object),
            Change::Malformed(malformed) => {
                // Ours with a content that can't be read is drift: writing it again repairs it.
                if let Some(stored) = self.stored.as_mut() {
                    stored.remove(&malformed.key);
                }
            }
            Change::Delete(key) => {
                if let Some(stored) = self.stored.as_mut() {
                    stored.remove(&key);
                }
                self.failed.remove(&key);
            }
            Change::Reset { objects, .. } => self.stored = Some(objects),
            Change::Lost { .. } => self.stored = None,
        }
    }

    /// An event from before our own last write is old news.
    fn saw(&mut self, key: ObjectKey, object: Stored<K::Content>) {
        let Some(stored) = self.stored.as_mut() else {
            return;
        };
        let version = |object: &Stored<K::Content>| object.resource_version.parse::<u64>().ok();
        let old_news = stored
            .get(&key)
            .is_some_and(|known| version(&object) < version(known));
        if !old_news {
            stored.insert(key, object);
        }
    }

    /// Steps to take now, in groups of which each is done before the next begins.
    pub fn steps(
        &mut self,
        wanted: &BTreeMap<ObjectKey, K::Content>,
        now: Instant,
    ) -> Vec<Vec<Step<K::Content>>> {
        let Some(stored) = self.stored.as_ref() else {
            return Vec::new();
        };
        self.failed
            .retain(|key, _| wanted.contains_key(key) || stored.contains_key(key));
        let (deletes, writes): (Vec<_>, Vec<_>) = plan(wanted, stored, &self.accepted)
            .into_iter()
            .filter(|step| {
                self.failed
                    .get(step.key())
                    .is_none_or(|failure| failure.not_before <= now)
            })
            .partition(|step| matches!(step, Step::Delete { .. }));
        if K::DELETES_FIRST {
            vec![deletes, writes]
        } else {
            vec![writes, deletes]
        }
    }

    pub fn record(&mut self, step: Step<K::Content>, outcome: Result<Outcome, String>) {
        let key = step.key().clone();
        match outcome {
            Ok(Outcome::Applied(object)) => self.applied(&key, step, *object),
            Ok(Outcome::Deleted) => {
                info!(kind = K::resource().kind, object = %key, "deleted");
                self.failed.remove(&key);
                self.accepted.remove(&key);
                if let Some(stored) = self.stored.as_mut() {
                    stored.remove(&key);
                }
            }
            Ok(Outcome::Blocked) => {
                let why = format!(
                    "{} {key} was made by somebody else and is left as it is: rename or delete it",
                    K::resource().kind
                );
                self.fail(key, ObstacleKind::Conflict, why);
            }
            Err(why) => self.fail(key, ObstacleKind::Failed, why),
        }
    }

    fn applied(&mut self, key: &ObjectKey, step: Step<K::Content>, object: DynamicObject) {
        self.failed.remove(key);
        let asked = match step {
            Step::Create(_, content) | Step::Update(_, content) => content,
            Step::Delete { .. } | Step::Blocked(_) => return,
        };
        let raw = Raw {
            metadata: object.metadata,
            data: object.data,
        };
        if let Ok(object) = stored::<K>(raw) {
            self.accepted
                .insert(key.clone(), (asked, object.content.clone()));
            self.saw(key.clone(), object);
        }
    }

    fn fail(&mut self, key: ObjectKey, kind: ObstacleKind, message: String) {
        let obstacle = Obstacle { kind, message };
        let known = self.failed.get(&key).map(|failure| &failure.obstacle);
        if known != Some(&obstacle) {
            let why = &obstacle.message;
            warn!(kind = K::resource().kind, object = %key, "not applied, trying again: {why}");
        }
        let failure = self.failed.entry(key).or_insert_with(|| Failure {
            obstacle: obstacle.clone(),
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(60)),
            not_before: Instant::now(),
        });
        failure.obstacle = obstacle;
        failure.not_before = Instant::now() + failure.backoff.pause();
    }

    pub fn next_retry(&self) -> Option<Instant> {
        self.failed.values().map(|failure| failure.not_before).min()
    }

    pub fn placed(&self, wanted: &BTreeMap<ObjectKey, K::Content>) -> Placed {
        let Some(stored) = self.stored.as_ref() else {
            return Placed::default();
        };
        Placed {
            in_place: wanted
                .iter()
                .filter(|(key, content)| {
                    stored
                        .get(*key)
                        .is_some_and(|found| in_place(key, *content, found, &self.accepted))
                })
                .map(|(key, _)| key.clone())
                .collect(),
            obstacles: self
                .failed
                .iter()
                .map(|(key, failure)| (key.clone(), failure.obstacle.clone()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::discovery::ApiResource;
    use serde_json::{Value, json};

    use super::*;
    use crate::watch::Kind;

    /// A kind whose content is a word; the API server writes it in capitals.
    struct Words;

    impl Owned for Words {
        type Content = String;
        const KIND: Kind = Kind::NetworkPolicy;
        const MANAGER: &'static str = "seawall/words";
        const DELETES_FIRST: bool = true;

        fn resource() -> ApiResource {
            ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&())
        }

        fn body(content: &String) -> Value {
            json!({ "word": content })
        }

        fn content(data: &Value) -> Result<String, String> {
            let word = data["word"].as_str();
            word.map(str::to_owned).ok_or("no word".to_owned())
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("plant", name)
    }

    fn answer(name: &str, version: u64, word: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "word": word,
            "metadata": {
                "namespace": "plant", "name": name, "uid": name,
                "resourceVersion": version.to_string(),
                "labels": {"app.kubernetes.io/managed-by": "seawall"},
                "managedFields": [{"manager": "seawall/words", "operation": "Apply"}],
            },
        }))
        .expect("an object")
    }

    fn seen(name: &str, version: u64, word: &str) -> (ObjectKey, Stored<String>) {
        let object = answer(name, version, word);
        let raw = Raw {
            metadata: object.metadata,
            data: object.data,
        };
        (key(name), stored::<Words>(raw).expect("readable"))
    }

    fn synced(objects: &[(ObjectKey, Stored<String>)]) -> Known<Words> {
        let mut known = Known::default();
        known.observe(Change::Reset {
            objects: objects.iter().cloned().collect(),
            malformed: Vec::new(),
        });
        known
    }

    fn wanted(name: &str, word: &str) -> BTreeMap<ObjectKey, String> {
        [(key(name), word.to_owned())].into()
    }

    fn only(known: &mut Known<Words>, wanted: &BTreeMap<ObjectKey, String>) -> Step<String> {
        let steps = known.steps(wanted, Instant::now());
        let mut steps = steps.into_iter().flatten();
        steps.next().expect("something is to be done")
    }

    fn nothing_to_do(known: &mut Known<Words>, wanted: &BTreeMap<ObjectKey, String>) -> bool {
        known.steps(wanted, Instant::now()).concat().is_empty()
    }

    #[test]
    fn nothing_is_done_before_the_first_list_nor_while_it_can_not_be_had() {
        let mut known = Known::<Words>::default();
        assert!(nothing_to_do(&mut known, &wanted("a", "x")));
        let mut known = synced(&[]);
        let why = "no".to_owned();
        known.observe(Change::Lost { why });
        assert!(nothing_to_do(&mut known, &wanted("a", "x")));
        assert_eq!(known.placed(&wanted("a", "x")), Placed::default());
    }

    #[test]
    fn what_the_api_server_made_of_a_write_is_in_place_and_its_echo_changes_nothing() {
        let (mut known, wanted) = (synced(&[]), wanted("a", "x"));
        let step = only(&mut known, &wanted);
        known.record(step, Ok(Outcome::Applied(Box::new(answer("a", 7, "X")))));
        assert!(nothing_to_do(&mut known, &wanted));
        assert!(known.placed(&wanted).in_place.contains(&key("a")));
        // Events from before the write and of it.
        for version in [5, 7] {
            let (key, object) = seen("a", version, if version < 7 { "old" } else { "X" });
            known.observe(Change::Apply(key, object));
            assert!(nothing_to_do(&mut known, &wanted));
        }
        let (key, object) = seen("a", 8, "edited");
        known.observe(Change::Apply(key, object));
        assert!(!nothing_to_do(&mut known, &wanted), "drift");
    }

    #[test]
    fn a_write_that_failed_is_an_obstacle_until_it_works_and_waits_before_the_next_try() {
        let (mut known, wanted) = (synced(&[]), wanted("a", "x"));
        let step = only(&mut known, &wanted);
        known.record(step, Err("quota".to_owned()));
        let obstacle = known.placed(&wanted).obstacles[&key("a")].clone();
        assert_eq!(
            (obstacle.kind, obstacle.message.as_str()),
            (ObstacleKind::Failed, "quota")
        );
        assert!(nothing_to_do(&mut known, &wanted));
        let later = known.next_retry().expect("it is tried again");
        let step = known.steps(&wanted, later).concat().remove(0);
        known.record(step, Ok(Outcome::Applied(Box::new(answer("a", 7, "x")))));
        assert!(known.placed(&wanted).obstacles.is_empty());
        assert_eq!(known.next_retry(), None);
    }

    #[test]
    fn what_somebody_else_made_is_a_conflict() {
        let (mut known, wanted) = (synced(&[]), wanted("a", "x"));
        let step = only(&mut known, &wanted);
        known.record(step, Ok(Outcome::Blocked));
        let obstacle = &known.placed(&wanted).obstacles[&key("a")];
        assert_eq!(obstacle.kind, ObstacleKind::Conflict);
    }

    #[test]
    fn deletes_go_first_where_they_tighten() {
        let mut known = synced(&[seen("old", 1, "x")]);
        let steps = known.steps(&wanted("new", "x"), Instant::now());
        assert!(matches!(steps[0][..], [Step::Delete { .. }]));
        assert!(matches!(steps[1][..], [Step::Create(..)]));
    }
}
