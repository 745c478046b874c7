//! A map of facts that remembers whose facts changed, so that what nobody touched need not be found out again.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use super::names::{DeviceId, ObjectKey};
use super::world::{Device, HeldIsolation};

/// Read as the map that it is; each way to change it takes a note.
#[derive(Clone, Debug)]
pub struct Facts<K, V> {
    all: BTreeMap<K, V>,
    touched: Touched<K>,
}

/// What changed since it was last asked.
#[derive(Clone, Debug)]
pub struct Touched<K> {
    /// It isn't known what, or it concerns everybody.
    pub everything: bool,
    pub tenants: BTreeSet<String>,
    /// Keys that were not there before, or are not any more.
    pub came_or_went: BTreeSet<K>,
}

impl<K> Default for Touched<K> {
    fn default() -> Self {
        Self {
            everything: false,
            tenants: BTreeSet::new(),
            came_or_went: BTreeSet::new(),
        }
    }
}

/// Whose fact it is; none for one that concerns everybody.
pub trait OfTenant<K> {
    fn tenant<'a>(&'a self, key: &'a K) -> Option<&'a str>;
}

/// Objects of the cluster are their namespace's.
impl<T> OfTenant<ObjectKey> for T {
    fn tenant<'a>(&'a self, key: &'a ObjectKey) -> Option<&'a str> {
        Some(&key.namespace)
    }
}

impl OfTenant<DeviceId> for Device {
    fn tenant<'a>(&'a self, _: &'a DeviceId) -> Option<&'a str> {
        Some(&self.tenant)
    }
}

impl OfTenant<String> for HeldIsolation {
    fn tenant<'a>(&'a self, _: &'a String) -> Option<&'a str> {
        Some(&self.key.namespace)
    }
}

impl OfTenant<String> for super::cluster::Namespace {
    fn tenant<'a>(&'a self, _: &'a String) -> Option<&'a str> {
        None
    }
}

impl OfTenant<String> for super::cluster::Node {
    fn tenant<'a>(&'a self, _: &'a String) -> Option<&'a str> {
        None
    }
}

impl<K: Ord + Clone, V: OfTenant<K>> Facts<K, V> {
    pub fn insert(&mut self, key: K, fact: V) -> Option<V> {
        self.touched.by(fact.tenant(&key));
        let before = self.all.insert(key.clone(), fact);
        match &before {
            Some(before) => self.touched.by(before.tenant(&key)),
            None => drop(self.touched.came_or_went.insert(key)),
        }
        before
    }

    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (key, fact) = self.all.remove_entry(key)?;
        self.touched.by(fact.tenant(&key));
        self.touched.came_or_went.insert(key);
        Some(fact)
    }

    /// Whether any went.
    pub fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) -> bool {
        let gone = self.all.iter().filter(|(key, fact)| !keep(key, fact));
        let gone: Vec<K> = gone.map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.remove(key);
        }
        !gone.is_empty()
    }

    /// Becomes this map; whether anything is different now.
    pub fn replace(&mut self, by: BTreeMap<K, V>) -> bool
    where
        V: PartialEq,
    {
        let mut news = self.retain(|key, _| by.contains_key(key));
        for (key, fact) in by {
            if self.all.get(&key) != Some(&fact) {
                self.insert(key, fact);
                news = true;
            }
        }
        news
    }
}

impl<K: Ord, V> Facts<K, V> {
    pub fn clear(&mut self) {
        self.touched.everything |= !self.all.is_empty();
        self.all.clear();
    }

    #[cfg(test)]
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.touched.everything = true;
        self.all.get_mut(key)
    }

    #[cfg(test)]
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.touched.everything = true;
        self.all.values_mut()
    }

    /// What was touched since the last call.
    pub fn take_touched(&mut self) -> Touched<K> {
        std::mem::take(&mut self.touched)
    }
}

impl<K> Touched<K> {
    fn by(&mut self, tenant: Option<&str>) {
        match tenant {
            Some(tenant) if self.tenants.contains(tenant) => {}
            Some(tenant) => drop(self.tenants.insert(tenant.to_owned())),
            None => self.everything = true,
        }
    }
}

/// All of it is news.
impl<K, V> From<BTreeMap<K, V>> for Facts<K, V> {
    fn from(all: BTreeMap<K, V>) -> Self {
        let touched = Touched {
            everything: true,
            ..Touched::default()
        };
        Self { all, touched }
    }
}

impl<K, V> Default for Facts<K, V> {
    fn default() -> Self {
        BTreeMap::new().into()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Facts<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> Self {
        BTreeMap::from_iter(all).into()
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for Facts<K, V> {
    fn from(all: [(K, V); N]) -> Self {
        BTreeMap::from(all).into()
    }
}

impl<K, V> Deref for Facts<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.all
    }
}

impl<'a, K, V> IntoIterator for &'a Facts<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::collections::btree_map::Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(tenant: &str) -> Device {
        Device {
            tenant: tenant.to_owned(),
            ..Device::default()
        }
    }

    fn id(number: u128) -> DeviceId {
        DeviceId::from_ulid(ulid::Ulid::from_parts(1, number))
    }

    fn known() -> Facts<DeviceId, Device> {
        let mut facts = Facts::from([(id(1), device("plant")), (id(2), device("harbour"))]);
        assert!(facts.take_touched().everything);
        facts
    }

    #[test]
    fn a_change_is_told_once_and_of_the_tenant_that_it_concerns() {
        let mut facts = known();
        facts.insert(id(1), device("plant"));
        let touched = facts.take_touched();
        assert!(!touched.everything && touched.came_or_went.is_empty());
        assert_eq!(touched.tenants, BTreeSet::from(["plant".to_owned()]));
        let touched = facts.take_touched();
        assert!(!touched.everything && touched.tenants.is_empty());
    }

    #[test]
    fn what_moves_concerns_both_and_what_comes_or_goes_is_named() {
        let mut facts = known();
        facts.insert(id(1), device("harbour"));
        facts.insert(id(3), device("depot"));
        facts.remove(&id(2));
        let touched = facts.take_touched();
        let tenants = ["depot", "harbour", "plant"].map(str::to_owned);
        assert_eq!(touched.tenants, BTreeSet::from(tenants));
        assert_eq!(touched.came_or_went, BTreeSet::from([id(2), id(3)]));
    }

    #[test]
    fn replaced_by_the_same_nothing_is_touched() {
        let mut facts = known();
        let same = facts.deref().clone();
        assert!(!facts.replace(same));
        assert!(facts.take_touched().tenants.is_empty());
        assert!(facts.replace(BTreeMap::from([(id(1), device("plant"))])));
        let touched = facts.take_touched();
        assert_eq!(touched.tenants, BTreeSet::from(["harbour".to_owned()]));
    }

    #[test]
    fn where_it_is_not_known_what_changed_everything_did() {
        let mut facts = known();
        facts.get_mut(&id(1));
        assert!(facts.take_touched().everything);
        facts.clear();
        assert!(facts.take_touched().everything);
    }
}
