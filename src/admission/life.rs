//! One object's life: the generations that a watch showed, the requests that may explain them, and what
//! became of each.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::finding::{Finding, Happened, NotSeen};
use super::records::{ObjectId, Request, SeenObject, Wants};

#[derive(Debug)]
pub struct Life {
    pub object: ObjectId,
    /// The newest generation that a watch showed.
    pub seen: i64,
    /// Up to here, it was decided whether each is explained.
    pub judged: i64,
    /// The spec at `judged`, where it is known.
    pub spec: Option<String>,
    /// Until the audit log has what became of them, oldest first.
    pub asked: Vec<Asked>,
    /// Nobody was recorded for what was judged last.
    pub unexplained: bool,
    /// Its deletion was judged.
    pub gone: bool,
    /// Findings about it that are not in the audit log yet, and what was judged before the first of them: an
    /// operator that ends now leaves them to the next.
    pub owed: Option<(usize, i64)>,
}

#[derive(Debug)]
pub struct Asked {
    pub request: Request,
    pub at: Timestamp,
    /// What became of it is found, and on its way to the audit log.
    pub found: bool,
    /// The audit log has that. It is kept as long as other findings are on their way, so that a process that
    /// ends now tells too much rather than a gap.
    pub done: bool,
}

/// Two specs are the same as far as is known.
fn alike(one: Option<&str>, other: Option<&str>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    }
}

impl Life {
    pub fn new(object: ObjectId) -> Self {
        Self {
            object,
            seen: 0,
            judged: 0,
            spec: None,
            asked: Vec::new(),
            unexplained: false,
            gone: false,
            owed: None,
        }
    }

    pub fn open(&mut self) -> impl Iterator<Item = &mut Asked> {
        self.asked.iter_mut().filter(|asked| !asked.found)
    }

    /// Notes that these will be told.
    pub fn owe(&mut self, findings: usize, before: i64) {
        if findings > 0 {
            self.owed.get_or_insert((0, before)).0 += findings;
        }
    }

    /// What became of the requests for the generations up to this one, and whether they explain each.
    pub fn written(
        &mut self,
        shown: i64,
        spec: Option<&str>,
        at: Timestamp,
    ) -> (Vec<Finding>, bool) {
        let judged = self.judged;
        let object = self.object.clone();
        let mut happened: BTreeMap<i64, Vec<Request>> = BTreeMap::new();
        let mut findings = Vec::new();
        for asked in self.open() {
            let Wants::Written {
                generation,
                spec: wanted,
            } = &asked.request.wants
            else {
                continue;
            };
            if *generation > shown {
                continue;
            }
            asked.found = true;
            // Of generations that were passed over the spec is not known.
            if *generation > judged && (*generation < shown || alike(wanted.as_deref(), spec)) {
                let those = happened.entry(*generation).or_default();
                those.push(asked.request.clone());
            } else {
                findings.push(Finding::NotSeen(NotSeen {
                    object: object.clone(),
                    request: asked.request.clone(),
                    why: "another change was stored in its place",
                }));
            }
        }
        let known = i64::try_from(happened.len()).unwrap_or(i64::MAX);
        let missing = shown - judged - known;
        let unchanged = happened.contains_key(&shown) || alike(self.spec.as_deref(), spec);
        let explained = missing <= 0 || (missing == 1 && unchanged && self.mark());
        let happened = happened.into_iter().map(|(generation, requests)| {
            Finding::Happened(Happened {
                object: object.clone(),
                generation: Some(generation),
                requests,
                at,
            })
        });
        findings.extend(happened);
        (findings, explained)
    }

    /// Whether a deletion that was asked for explains one generation: a finalizer keeps the object, and
    /// being marked for deletion is a generation of its own.
    pub fn mark(&mut self) -> bool {
        let mut any = false;
        for asked in &mut self.asked {
            if let Wants::Deleted { marked, .. } = &mut asked.request.wants {
                if *marked {
                    return false;
                }
                (*marked, any) = (true, true);
            }
        }
        any
    }

    /// What became of the requests, now that it is gone, and whether one explains that.
    pub fn deleted(&mut self, at: Timestamp) -> (Vec<Finding>, bool) {
        let object = self.object.clone();
        let (mut requests, mut findings) = (Vec::new(), Vec::new());
        for asked in &mut self.asked {
            let request = asked.request.clone();
            match request.wants {
                Wants::Deleted { .. } => requests.push(request),
                Wants::Written { .. } if asked.found => continue,
                Wants::Written { .. } => findings.push(Finding::NotSeen(NotSeen {
                    object: object.clone(),
                    request,
                    why: "the object was deleted before it was seen",
                })),
            }
            asked.found = true;
        }
        // Of those that were marked for deletion, that one is it.
        let is_marked =
            |request: &Request| matches!(request.wants, Wants::Deleted { marked: true, .. });
        let explained = !requests.is_empty();
        if requests.iter().any(is_marked) {
            let late;
            (requests, late) = requests.into_iter().partition(is_marked);
            findings.extend(late.into_iter().map(|request: Request| {
                Finding::NotSeen(NotSeen {
                    object: object.clone(),
                    request,
                    why: "it was being deleted already",
                })
            }));
        }
        if explained {
            findings.push(Finding::Happened(Happened {
                object,
                generation: None,
                requests,
                at,
            }));
        }
        (findings, explained)
    }

    /// What became of requests that have waited long enough.
    pub fn lapsed(&mut self, old: Timestamp) -> Vec<Finding> {
        let object = self.object.clone();
        let late = self.open().filter(|asked| asked.at <= old);
        let late = late.filter_map(|asked| {
            let why = match asked.request.wants {
                Wants::Deleted { told: true, .. } => return None,
                Wants::Deleted { marked: true, .. } => {
                    "it is marked for deletion, and a finalizer keeps it"
                }
                _ => "as a rule it was refused",
            };
            asked.found = true;
            Some(Finding::NotSeen(NotSeen {
                object: object.clone(),
                request: asked.request.clone(),
                why,
            }))
        });
        late.collect()
    }

    /// The audit log has what became of the request.
    pub fn told(&mut self, id: &str) {
        for asked in &mut self.asked {
            if asked.request.id != id {
                continue;
            }
            match &mut asked.request.wants {
                // It will still be gone one day, and then it was this request.
                Wants::Deleted { marked: true, told } if !self.gone => {
                    (*told, asked.found) = (true, false);
                }
                _ => asked.done = true,
            }
        }
    }

    /// One of the findings is in the audit log.
    pub fn paid(&mut self) {
        self.owed = match self.owed {
            Some((owed, before)) if owed > 1 => Some((owed - 1, before)),
            _ => None,
        };
        if self.owed.is_none() {
            self.asked.retain(|asked| !asked.done);
        }
    }

    pub fn row(&self) -> SeenObject {
        SeenObject {
            object: self.object.clone(),
            seen: self.owed.map_or(self.judged, |(_, before)| before),
            asked: self.asked.iter().map(|it| it.request.clone()).collect(),
        }
    }
}
