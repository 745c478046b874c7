//! The points between which the agent may be killed, for tests that kill it there.

use std::fmt;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// At the start: the bundle on disk was read.
    Loaded,
    /// A bundle is signed, for this device, and newer.
    Verified,
    /// It is on the disk beside the old one.
    Written,
    /// It is the one on the disk.
    Persisted,
    /// Its rules are in force.
    Applied,
    /// The connections that they forbid have ended.
    Cut,
    /// The kernel holds them; the acknowledgement is next.
    ReadBack,
}

impl Step {
    pub const ALL: [Self; 7] = [
        Self::Loaded,
        Self::Verified,
        Self::Written,
        Self::Persisted,
        Self::Applied,
        Self::Cut,
        Self::ReadBack,
    ];
}

/// Who is told of each step. The product tells nobody.
#[derive(Clone, Default)]
pub struct Steps(Option<Arc<dyn Fn(Step) + Send + Sync>>);

impl Steps {
    pub fn told_to(listener: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    pub(super) fn reached(&self, step: Step) {
        if let Some(listener) = &self.0 {
            listener(step);
        }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").finish_non_exhaustive()
    }
}
