//! Wanted against stored: which objects have to be written and which removed. Pure.

use std::collections::BTreeMap;

use crate::domain::names::ObjectKey;

/// One object that the operator made, as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<Content> {
    pub uid: String,
    pub resource_version: String,
    /// It carries our label and our field manager wrote it; others' objects are never touched.
    pub ours: bool,
    /// It is being deleted: nothing more is to be done about it until it is gone.
    pub terminating: bool,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step<Content> {
    /// No object of this name is known.
    Create(ObjectKey, Content),
    /// Ours, and not as wanted.
    Update(ObjectKey, Content),
    /// Ours, and not wanted. The UID and version say which object was meant.
    Delete {
        key: ObjectKey,
        uid: String,
        resource_version: String,
    },
    /// Somebody else's object has this name.
    Blocked(ObjectKey),
}

impl<Content> Step<Content> {
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::Create(key, _) | Self::Update(key, _) | Self::Blocked(key) => key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// What is to be done. `accepted` holds, for objects that were written before, the wanted content and
/// what the API server made of it: a default that it filled in is not a difference.
pub fn plan<Content: Clone + PartialEq>(
    wanted: &BTreeMap<ObjectKey, Content>,
    stored: &BTreeMap<ObjectKey, Stored<Content>>,
    accepted: &BTreeMap<ObjectKey, (Content, Content)>,
) -> Vec<Step<Content>> {
    let mut steps = Vec::new();
    for (key, content) in wanted {
        match stored.get(key) {
            None => steps.push(Step::Create(key.clone(), content.clone())),
            Some(found) if found.terminating => {}
            Some(found) if !found.ours => steps.push(Step::Blocked(key.clone())),
            Some(found) if in_place(key, content, found, accepted) => {}
            Some(_) => steps.push(Step::Update(key.clone(), content.clone())),
        }
    }
    for (key, found) in stored {
        if found.ours && !found.terminating && !wanted.contains_key(key) {
            steps.push(Step::Delete {
                key: key.clone(),
                uid: found.uid.clone(),
                resource_version: found.resource_version.clone(),
            });
        }
    }
    steps
}

/// Whether the object is stored as wanted.
pub fn in_place<Content: PartialEq>(
    key: &ObjectKey,
    wanted: &Content,
    found: &Stored<Content>,
    accepted: &BTreeMap<ObjectKey, (Content, Content)>,
) -> bool {
    found.ours
        && !found.terminating
        && (found.content == *wanted
            || accepted
                .get(key)
                .is_some_and(|(asked, got)| asked == wanted && *got == found.content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("plant", name)
    }

    fn stored(content: &'static str, ours: bool) -> Stored<&'static str> {
        Stored {
            uid: "u".to_owned(),
            resource_version: "7".to_owned(),
            ours,
            terminating: false,
            content,
        }
    }

    #[test]
    fn what_is_missing_is_created_what_differs_is_updated_and_what_is_unwanted_is_deleted() {
        let steps = plan(
            &[(key("a"), "1"), (key("b"), "1"), (key("c"), "1")].into(),
            &[
                (key("b"), stored("2", true)),
                (key("c"), stored("1", true)),
                (key("d"), stored("1", true)),
            ]
            .into(),
            &BTreeMap::new(),
        );
        assert_eq!(
            steps,
            [
                Step::Create(key("a"), "1"),
                Step::Update(key("b"), "1"),
                Step::Delete {
                    key: key("d"),
                    uid: "u".to_owned(),
                    resource_version: "7".to_owned()
                },
            ]
        );
    }

    #[test]
    fn an_object_that_somebody_else_made_is_neither_overwritten_nor_deleted() {
        let steps = plan(
            &[(key("a"), "1")].into(),
            &[
                (key("a"), stored("2", false)),
                (key("b"), stored("2", false)),
            ]
            .into(),
            &BTreeMap::new(),
        );
        assert_eq!(steps, [Step::Blocked(key("a"))]);
    }

    #[test]
    fn an_object_that_is_being_deleted_is_left_alone_until_it_is_gone() {
        let dying = Stored {
            terminating: true,
            ..stored("1", true)
        };
        let steps = plan(
            &[(key("a"), "1")].into(),
            &[(key("a"), dying.clone()), (key("b"), dying)].into(),
            &BTreeMap::new(),
        );
        assert_eq!(steps, []);
    }

    #[test]
    fn a_default_that_the_api_server_filled_in_is_no_difference_but_drift_is() {
        let accepted = [(key("a"), ("1", "1 and a default"))].into();
        let wanted = [(key("a"), "1")].into();
        let same = [(key("a"), stored("1 and a default", true))].into();
        assert_eq!(plan(&wanted, &same, &accepted), []);
        let drifted = [(key("a"), stored("2", true))].into();
        assert_eq!(
            plan(&wanted, &drifted, &accepted),
            [Step::Update(key("a"), "1")]
        );
    }
}
