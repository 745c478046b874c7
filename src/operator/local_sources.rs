//! What the local API answers from: the loop's view, the fleet, and the audit log.

use std::collections::{BTreeMap, BTreeSet};
use std::future::IntoFuture;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use axum::Router;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::standings::{Assessed, Moment};
use super::wards_read_back::Wards;
use super::{moments, pods, preview, users};
use crate::access::Directory;
use crate::domain::applied::Applied;
use crate::domain::compile::compile;
use crate::domain::explain::{Explanation, Known, Question, Unanswerable, explain};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::Acceptance;
use crate::domain::world::World;
use crate::enforce::owned::Placed;
use crate::enforce::stripped::Obstacles;
use crate::enforce::suspended::Kept;
use crate::fleet::Fleet;
use crate::local::pods::WorkloadView;
use crate::local::router::NOT_SYNCED;
use crate::local::types::{
    DeviceView, Held, HeldIsolation, INVALID, Preview, Previewed, Problem, SettledQuery, Standing,
    VerifyReport, VerifyRequest,
};
use crate::local::{Devices, Kind, Scopes, Standings, socket};
use crate::reconcile::view::View;

/// Patience with the loop, which answers between two turns.
const WORLD_TIMEOUT: Duration = Duration::from_secs(5);
/// Patience with devices that are asked to read back.
const READ_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long answers under way may take after `stop`.
const GOODBYE: Duration = Duration::from_secs(2);

/// The loop's latest view; `None` before the first compile.
pub type Views = watch::Receiver<Option<Arc<View>>>;

pub struct LocalScopes {
    pub views: Views,
    /// The day on which each scope was last used, for its status.
    pub used: watch::Sender<BTreeMap<ObjectKey, String>>,
}

impl Scopes for LocalScopes {
    fn directory(&self) -> Option<Arc<Directory>> {
        let view = self.views.borrow();
        view.as_ref().map(|view| Arc::clone(&view.directory))
    }

    fn used(&self, scope: &ObjectKey) {
        let today = Timestamp::now().strftime("%Y-%m-%d").to_string();
        self.used.send_if_modified(|days| {
            let news = days.get(scope) != Some(&today);
            if news {
                days.insert(scope.clone(), today);
            }
            news
        });
    }
}

pub struct LocalDevices {
    pub views: Views,
    pub fleet: Fleet,
}

impl Devices for LocalDevices {
    fn of_tenant(&self, tenant: &str) -> Option<Vec<DeviceView>> {
        let view = self.views.borrow().clone()?;
        let mut isolated: BTreeMap<&DeviceId, Vec<String>> = BTreeMap::new();
        let mut held: BTreeMap<&DeviceId, Vec<Held>> = BTreeMap::new();
        for (key, verdict) in &view.compiled.verdicts.isolations {
            if let Some(device) = &verdict.device
                && verdict.acceptance == Acceptance::Accepted
            {
                isolated.entry(device).or_default().push(key.name.clone());
                if let Some(hold) = view.holds.get(&verdict.uid) {
                    held.entry(device).or_default().push(Held {
                        isolation: key.name.clone(),
                        hold: hold.clone(),
                    });
                }
            }
        }
        let mut devices = self.fleet.view(Some(tenant));
        for device in &mut devices {
            device.isolated_by = isolated.remove(&device.id).unwrap_or_default();
            device.held = held.remove(&device.id).unwrap_or_default();
        }
        Some(devices)
    }
}

/// What the API server itself holds of what is in force: for pods without an agent, and of suspended users.
#[derive(Clone)]
pub struct InApiServer {
    pub policies: watch::Receiver<Placed>,
    pub stripped: watch::Receiver<Obstacles>,
    pub suspended_users: watch::Receiver<Kept>,
}

#[derive(Clone)]
pub struct LocalStandings {
    pub views: Views,
    pub fleet: Fleet,
    pub in_api_server: InApiServer,
    /// Asks the loop for the World as it is.
    pub worlds: mpsc::Sender<oneshot::Sender<World>>,
}

impl LocalStandings {
    fn view(&self) -> Result<Arc<View>, Problem> {
        let view = self.views.borrow().clone();
        view.ok_or_else(|| Problem::unavailable(NOT_SYNCED))
    }

    fn applied(&self) -> Applied {
        let InApiServer {
            policies,
            stripped,
            suspended_users,
        } = &self.in_api_server;
        let policies = policies.borrow().clone();
        let users = suspended_users.borrow().clone();
        Applied {
            devices: self.fleet.applied(),
            network_policies: policies.in_place,
            network_policy_obstacles: policies.obstacles,
            stripped_obstacles: stripped.borrow().clone(),
            suspended_users: users.users,
            suspended_users_obstacle: users.obstacle,
            ..Applied::default()
        }
    }

    /// The World as the loop has it now.
    async fn world(&self) -> Result<World, Problem> {
        let (answer, world) = oneshot::channel();
        let asked = async {
            self.worlds.send(answer).await.ok()?;
            world.await.ok()
        };
        timeout(WORLD_TIMEOUT, asked)
            .await
            .ok()
            .flatten()
            .ok_or_else(|| Problem::unavailable("the operator's loop did not answer: try again"))
    }

    fn devices_to_ask(
        &self,
        tenant: &str,
        named: &[DeviceId],
        everything: bool,
    ) -> Result<BTreeSet<DeviceId>, Problem> {
        let of_tenant = self.fleet.view(Some(tenant));
        if everything {
            let connected = of_tenant.into_iter().filter(|device| device.connected);
            return Ok(connected.map(|device| device.id).collect());
        }
        let unknown = |id: &&DeviceId| !of_tenant.iter().any(|known| known.id == **id);
        match named.iter().find(unknown) {
            Some(device) => Err(Problem::not_found(format!(
                "no device {device} is enrolled in {tenant}"
            ))),
            None => Ok(named.iter().cloned().collect()),
        }
    }

    /// Waits until it stands as it should, or the time is over.
    async fn stands(
        &self,
        kind: Kind,
        resource: &ObjectKey,
        query: &SettledQuery,
    ) -> Result<Standing, Problem> {
        let deadline = Instant::now() + Duration::from_millis(query.timeout_ms);
        let mut views = self.views.clone();
        let mut changes = self.fleet.changes();
        let InApiServer {
            mut policies,
            mut stripped,
            suspended_users: mut users,
        } = self.in_api_server.clone();
        let mut had_it = BTreeSet::new();
        let mut last = None;
        loop {
            changes.mark_unchanged();
            policies.mark_unchanged();
            stripped.mark_unchanged();
            users.mark_unchanged();
            let view = views.borrow_and_update().clone();
            if let Some(view) = view {
                let moment = Moment {
                    view: &view,
                    applied: &self.applied(),
                };
                match moment.assess(kind, resource, query, &mut had_it) {
                    Some(Assessed {
                        standing,
                        settled: true,
                    }) => return Ok(standing),
                    Some(assessed) => last = Some(assessed.standing),
                    None => {}
                }
            }
            let change = async {
                tokio::select! {
                    changed = views.changed() => changed.is_ok(),
                    changed = changes.changed() => changed.is_ok(),
                    changed = policies.changed() => changed.is_ok(),
                    changed = stripped.changed() => changed.is_ok(),
                    changed = users.changed() => changed.is_ok(),
                }
            };
            match timeout_at(deadline, change).await {
                Ok(true) => {}
                Ok(false) => return Err(Problem::unavailable("the operator is ending")),
                Err(_) => break,
            }
        }
        last.ok_or_else(|| {
            Problem::unavailable(format!(
                "the operator has not seen this version of {resource} within {} ms: see its /ready and its log",
                query.timeout_ms
            ))
        })
    }
}

#[async_trait]
impl Standings for LocalStandings {
    async fn settled(
        &self,
        kind: Kind,
        resource: &ObjectKey,
        query: &SettledQuery,
    ) -> Result<Standing, Problem> {
        let mut standing = self.stands(kind, resource, query).await?;
        if kind == Kind::Isolation && !query.gone {
            let view = self.views.borrow().clone();
            if let Some(view) = view {
                let applied = self.applied();
                standing.moments = moments::of(&self.fleet, &view, resource, &standing);
                let verdict = view.compiled.verdicts.isolations.get(resource);
                let verdict = verdict.filter(|verdict| verdict.uid == standing.uid);
                standing.pods =
                    verdict.and_then(|verdict| pods::standing(resource, verdict, &applied));
                standing.user =
                    verdict.and_then(|verdict| users::standing(resource, verdict, &applied));
            }
        }
        Ok(standing)
    }

    async fn preview(&self, tenant: &str, preview: &Preview) -> Result<Previewed, Problem> {
        let world = self.world().await?;
        let (tenant, preview) = (tenant.to_owned(), preview.clone());
        let applied = self.applied();
        // A World of thousands compiles for milliseconds: not on a thread that serves others.
        tokio::task::spawn_blocking(move || preview::with(world, &applied, &tenant, preview))
            .await
            .map_err(|_| Problem::unavailable("the preview failed: see the operator's log"))
    }

    async fn explain(&self, question: Question) -> Result<Explanation, Problem> {
        self.view()?;
        let world = self.world().await?;
        let applied = self.fleet.applied();
        let explained = tokio::task::spawn_blocking(move || {
            let compiled = compile(&world, Timestamp::now());
            let known = Known {
                world: &world,
                compiled: &compiled,
                applied: Some(&applied),
            };
            explain(&known, &question)
        });
        let explained = explained
            .await
            .map_err(|_| Problem::unavailable("explaining failed: see the operator's log"))?;
        explained.map_err(|Unanswerable(message)| Problem {
            code: INVALID.into(),
            message,
        })
    }

    async fn verify(&self, tenant: &str, request: &VerifyRequest) -> Result<VerifyReport, Problem> {
        let view = self.view()?;
        let everything = request.devices.is_empty() && request.pods.is_empty();
        let devices = self.devices_to_ask(tenant, &request.devices, everything)?;
        let world = match request.pods.is_empty() {
            true => None,
            false => Some(self.world().await?),
        };
        let wards = match &world {
            Some(world) => Wards::named(&view.compiled, world, tenant, &request.pods)?,
            None if everything => Wards::of_tenant(&view.compiled, tenant),
            None => Wards::default(),
        };
        let asked = devices.union(&wards.devices()).cloned().collect();
        let answers = self.fleet.read_back(&asked, READ_BACK_TIMEOUT).await;
        let pods = wards.judged(&answers, &self.applied());
        let answers = answers.into_iter();
        Ok(VerifyReport {
            devices: answers.filter(|it| devices.contains(&it.device)).collect(),
            pods,
        })
    }

    fn held(&self, tenant: &str) -> Result<Vec<HeldIsolation>, Problem> {
        let view = self.view()?;
        let isolations = view.compiled.verdicts.isolations.iter();
        let held = isolations.filter(|(key, _)| key.namespace == tenant);
        let held = held.filter_map(|(key, verdict)| {
            let hold = view.holds.get(&verdict.uid)?;
            Some(HeldIsolation {
                held: Held {
                    isolation: key.name.clone(),
                    hold: hold.clone(),
                },
                target: verdict.target.clone(),
            })
        });
        Ok(held.collect())
    }

    async fn workloads(&self, tenant: &str) -> Result<Vec<WorkloadView>, Problem> {
        let (view, world) = (self.view()?, self.world().await?);
        let (applied, tenant) = (self.applied(), tenant.to_owned());
        let listed =
            move || pods::of_tenant(&view.compiled, &view.holds, &world, &applied, &tenant);
        tokio::task::spawn_blocking(listed)
            .await
            .map_err(|_| Problem::unavailable("the list failed: see the operator's log"))
    }
}

/// Serves the local API on its socket until `stop`, then removes it.
pub async fn serve(path: &Path, router: Router, stop: CancellationToken) -> Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    let listener = socket::bind(path).await.with_context(|| {
        format!(
            "listening on {}: give --local-socket another path",
            path.display()
        )
    })?;
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    tokio::pin!(server);
    let served = tokio::select! {
        served = &mut server => served,
        () = stop.cancelled() => timeout(GOODBYE, server).await.unwrap_or(Ok(())),
    };
    let _ = std::fs::remove_file(path);
    served.with_context(|| format!("serving {}", path.display()))
}
