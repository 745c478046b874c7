//! Which user a call is about, and what that user is called elsewhere.

use std::collections::BTreeSet;

use crate::access::Target;
use crate::api::IsolationSpec;
use crate::api::isolation::UserNames;
use crate::mcp::answer::Failure;
use crate::mcp::resources;
use crate::mcp::text::clean;

/// Characters of a name, as the API has it.
const LONGEST: usize = 253;

/// A user with the names that are suspended: a list that is not given stands for the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub id: String,
    pub names: Option<UserNames>,
}

/// The names by which an Isolation suspends, in each place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub os: BTreeSet<String>,
    pub kubernetes: BTreeSet<String>,
    pub seawall: BTreeSet<String>,
}

/// An id such as the API takes.
pub fn id(given: &str) -> Result<String, Failure> {
    let bad = given.is_empty() || given.trim() != given || given.chars().count() > LONGEST;
    if bad || given.contains(char::is_control) {
        return Err(Failure::invalid(format!(
            "{:?} is no id of a user: give what people call it, without blanks around it",
            clean(given, 64)
        )));
    }
    Ok(given.to_owned())
}

impl Named {
    pub fn new(
        id: String,
        os: Option<Vec<String>>,
        kubernetes: Option<Vec<String>>,
        seawall: Option<Vec<String>>,
    ) -> Self {
        let given = os.is_some() || kubernetes.is_some() || seawall.is_some();
        let names = given.then_some(UserNames {
            os,
            kubernetes,
            seawall,
        });
        Self { id, names }
    }

    /// What the scope is asked for.
    pub fn target(&self) -> Target {
        let names = Names::of(&self.id, self.names.as_ref());
        let agents = names.seawall.clone();
        let mut all = [self.id.clone()].into_iter().collect::<BTreeSet<_>>();
        all.extend(names.os);
        all.extend(names.kubernetes);
        all.extend(names.seawall);
        Target::User { names: all, agents }
    }

    pub fn isolation_name(&self, user: &str) -> String {
        let Names {
            os,
            kubernetes,
            seawall,
        } = Names::of(&self.id, self.names.as_ref());
        resources::user_isolation_name(user, &self.id, [&os, &kubernetes, &seawall])
    }
}

impl Names {
    pub fn of(id: &str, names: Option<&UserNames>) -> Self {
        let called = |names: Option<&Vec<String>>| match names {
            Some(names) => names.iter().cloned().collect(),
            None => [id.to_owned()].into(),
        };
        Self {
            os: called(names.and_then(|names| names.os.as_ref())),
            kubernetes: called(names.and_then(|names| names.kubernetes.as_ref())),
            seawall: called(names.and_then(|names| names.seawall.as_ref())),
        }
    }

    /// Those of an Isolation; none for one of something else.
    pub fn in_spec(spec: &IsolationSpec) -> Option<Self> {
        let id = spec.target.user.as_ref()?;
        Some(Self::of(id, spec.user_names.as_ref()))
    }

    /// Whether both suspend somebody.
    pub fn overlap(&self, other: &Self) -> bool {
        !self.os.is_disjoint(&other.os)
            || !self.kubernetes.is_disjoint(&other.kubernetes)
            || !self.seawall.is_disjoint(&other.seawall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_list_that_is_left_out_stands_for_the_id_and_an_empty_one_for_nobody() {
        let named = Named::new("mallory".into(), some(&["mmueller"]), some(&[]), None);
        let names = Names::of(&named.id, named.names.as_ref());
        assert_eq!(names.os, ["mmueller".to_owned()].into());
        assert!(names.kubernetes.is_empty());
        assert_eq!(names.seawall, ["mallory".to_owned()].into());
        assert_eq!(Named::new("mallory".into(), None, None, None).names, None);
    }

    #[test]
    fn the_scope_is_asked_for_every_name() {
        let named = Named::new("mallory".into(), some(&["alice"]), some(&["root"]), None);
        let Target::User { names, agents } = named.target() else {
            panic!("a user");
        };
        let all = ["alice", "mallory", "root"].map(str::to_owned);
        assert_eq!(names, all.into());
        assert_eq!(agents, ["mallory".to_owned()].into());
    }

    #[test]
    fn another_set_of_names_is_another_isolation() {
        let plain = Named::new("mallory".into(), None, None, None);
        let same = Named::new("mallory".into(), some(&["mallory"]), None, None);
        let other = Named::new("mallory".into(), None, some(&["m@example.com"]), None);
        let moved = Named::new("mallory".into(), some(&["m@example.com"]), None, None);
        let name = |named: &Named| named.isolation_name("system:serviceaccount:x:y");
        assert_eq!(name(&plain), name(&same));
        assert_ne!(name(&plain), name(&other));
        assert_ne!(name(&moved), name(&other));
        assert_ne!(name(&plain), plain.isolation_name("another agent"));
    }

    #[test]
    fn an_id_has_no_blanks_around_it_and_no_control_characters() {
        assert_eq!(id("m@example.com"), Ok("m@example.com".into()));
        for wrong in ["", " mallory", "mal\u{1b}lory", &"m".repeat(254)] {
            assert!(id(wrong).is_err(), "{wrong:?}");
        }
    }
}
