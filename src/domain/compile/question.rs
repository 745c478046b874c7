//! For whom it is to be found out what follows.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::world::{Device, World};

#[derive(Clone, Copy, Debug)]
pub enum Question<'q> {
    Everybody,
    /// For these namespaces alone.
    Tenants(&'q BTreeSet<String>),
}

impl<'q> Question<'q> {
    /// Those of the objects that are to be judged.
    pub fn of<'w, T>(
        self,
        objects: &'w BTreeMap<ObjectKey, T>,
    ) -> Box<dyn Iterator<Item = (&'w ObjectKey, &'w T)> + 'w>
    where
        'q: 'w,
    {
        match self {
            Self::Everybody => Box::new(objects.iter()),
            Self::Tenants(tenants) => Box::new(
                tenants
                    .iter()
                    .flat_map(|tenant| in_namespace(objects, tenant)),
            ),
        }
    }

    pub fn devices<'w>(
        self,
        world: &'w World,
    ) -> impl Iterator<Item = (&'w DeviceId, &'w Device)> + use<'w, 'q> {
        world
            .devices
            .iter()
            .filter(move |(_, device)| self.is_about(&device.tenant))
    }

    pub fn is_about(self, tenant: &str) -> bool {
        match self {
            Self::Everybody => true,
            Self::Tenants(tenants) => tenants.contains(tenant),
        }
    }
}

/// The objects of one namespace.
pub fn in_namespace<'m, 'n, T>(
    objects: &'m BTreeMap<ObjectKey, T>,
    namespace: &'n str,
) -> impl Iterator<Item = (&'m ObjectKey, &'m T)> + use<'m, 'n, T> {
    let first = ObjectKey::new(namespace, "");
    objects
        .range(first..)
        .take_while(move |(key, _)| key.namespace == namespace)
}
