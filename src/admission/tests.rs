//! From the API server's request to the entries of the audit log, with a journal and a store in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::http::{Request, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::records::{Memory, SeenObject, SeenStore};
use super::*;
use crate::audit::entry::{ActorKind, Body, ChangeRequest, Gap, SpecBody};
use crate::domain::names::ObjectKey;
use crate::watch::{Change, Kind, Malformed, Watched};

const PATH: &str = "/admission/secret";

#[derive(Default)]
struct Kept {
    entries: Mutex<Vec<Entry>>,
    away: AtomicBool,
    memory: Mutex<Memory>,
}

impl Kept {
    fn bodies(&self) -> Vec<Body> {
        let entries = self.entries.lock().expect("nobody panics");
        entries.iter().map(|entry| entry.body.clone()).collect()
    }

    fn gaps(&self) -> Vec<Gap> {
        let gap = |body| match body {
            Body::Gap(gap) => Some(gap),
            _ => None,
        };
        self.bodies().into_iter().filter_map(gap).collect()
    }
}

#[async_trait]
impl Journal for Kept {
    async fn append(&self, entry: &Entry) -> anyhow::Result<()> {
        anyhow::ensure!(!self.away.load(Ordering::Relaxed), "away");
        self.entries
            .lock()
            .expect("nobody panics")
            .push(entry.clone());
        Ok(())
    }
}

#[async_trait]
impl SeenStore for Kept {
    async fn memory(&self) -> anyhow::Result<Memory> {
        Ok(self.memory.lock().expect("nobody panics").clone())
    }

    async fn remember(
        &self,
        put: &[SeenObject],
        remove: &[String],
        watched_until: Timestamp,
    ) -> anyhow::Result<()> {
        let mut memory = self.memory.lock().expect("nobody panics");
        memory.objects.retain(|old| {
            let uid = &old.object.uid;
            !remove.contains(uid) && put.iter().all(|new| new.object.uid != *uid)
        });
        memory.objects.extend(put.iter().cloned());
        memory.watched_until = Some(watched_until);
        Ok(())
    }
}

/// One operator's life.
struct Life {
    kept: Arc<Kept>,
    counts: Counts,
    router: axum::Router,
    observer: Observer,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Life {
    fn begin(kept: &Arc<Kept>) -> Self {
        let counts = Counts::default();
        let (recorder, observer, witness) =
            open(kept.clone(), kept.clone(), "seawall-system", counts.clone());
        let stop = CancellationToken::new();
        Self {
            kept: kept.clone(),
            counts,
            router: router(recorder, PATH.to_owned()),
            observer,
            task: tokio::spawn(witness.run(stop.clone())),
            stop,
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("joined").expect("in order");
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = HttpBody::from(serde_json::to_vec(body).expect("JSON"));
        let request = Request::post(path).body(body).expect("a request");
        let answer = self.router.clone().oneshot(request).await.expect("answers");
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
        let body = serde_json::from_slice(&bytes.expect("a body")).unwrap_or_default();
        (status, body)
    }

    async fn asks(&self, review: &Value) {
        let (status, answer) = self.post(PATH, review).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["response"]["allowed"], true, "{answer}");
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
    }

    /// Tells the witness as a watch would; what is passed on is dropped.
    async fn sees(&self, change: Change<Watched<(), ()>>) {
        let (tell, changes) = mpsc::channel(1);
        let (out, mut passed) = mpsc::channel(1);
        tell.send(change).await.expect("there is room");
        drop(tell);
        observed(Kind::Isolation, changes, out, self.observer.clone()).await;
        assert!(passed.recv().await.is_some(), "it is passed on");
    }

    async fn shows(&self, uid: &str, generation: i64) {
        self.sees(Change::Malformed(Malformed {
            key: ObjectKey::new("plant", "i"),
            uid: uid.to_owned(),
            generation,
            resource_version: String::new(),
            status: None,
            why: String::new(),
        }))
        .await;
    }

    fn counted(&self, outcome: &'static str) -> u64 {
        let label = OutcomeLabel { outcome };
        self.counts.reviews.get_or_create(&label).get()
    }
}

fn review(operation: &str, uid: &str, generation: i64) -> Value {
    let object = json!({
        "apiVersion": "seawall.dev/v1alpha1",
        "kind": "Isolation",
        "metadata": {
            "name": "i", "namespace": "plant", "uid": uid, "generation": generation,
            "managedFields": [
                {"manager": "kubectl-edit", "operation": "Update", "time": "2026-11-21T03:00:00Z"},
                {"manager": "kustomize-controller", "operation": "Apply", "time": "2026-11-21T04:00:00Z"},
                {"manager": "seawall/status", "subresource": "status", "time": "2026-11-21T05:00:00Z"},
            ],
        },
        "spec": {"target": {"node": "n"}, "reason": "r"},
    });
    let mut before = object.clone();
    before["metadata"]["generation"] = (generation - 1).into();
    before["spec"]["reason"] = "before".into();
    let (object, old) = match operation {
        "CREATE" => (object, Value::Null),
        "DELETE" => (Value::Null, object),
        _ => (object, before),
    };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "a-request",
            "kind": {"group": "seawall.dev", "version": "v1alpha1", "kind": "Isolation"},
            "resource": {"group": "seawall.dev", "version": "v1alpha1", "resource": "isolations"},
            "name": "i",
            "namespace": "plant",
            "operation": operation,
            "userInfo": {"username": "alice", "groups": ["soc", "system:authenticated"]},
            "object": object,
            "oldObject": old,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "kubectl-create"},
        },
    })
}

/// Lets time pass until it holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} does not come");
}

fn change(body: &Body) -> &ChangeRequest {
    match body {
        Body::ChangeRequest(request) => request,
        other => panic!("not a request: {other:?}"),
    }
}

#[tokio::test]
async fn a_request_is_let_through_and_recorded_with_who_asked_for_what() {
    let kept = Arc::<Kept>::default();
    let life = Life::begin(&kept);
    life.asks(&review("CREATE", "u", 1)).await;
    until("the entry", || kept.bodies().len() == 1).await;
    let entry = kept.entries.lock().expect("nobody panics")[0].clone();
    assert_eq!((&*entry.tenant, &*entry.actor.name), ("plant", "alice"));
    assert_eq!(entry.actor.kind, ActorKind::Person);
    assert_eq!(entry.actor.via.as_deref(), Some("kubectl-create"));
    let change = change(&entry.body);
    assert_eq!(change.verb, "create");
    assert_eq!(change.groups, ["soc", "system:authenticated"]);
    assert_eq!(change.object.to_string(), "Isolation/plant/i");
    assert_eq!(change.object.uid.as_deref(), Some("u"));
    assert_eq!(change.object.generation, Some(1));
    let Some(SpecBody::Spec(spec)) = &change.spec else {
        panic!("a spec");
    };
    assert_eq!(spec["reason"], "r");
    life.end().await;
}

#[tokio::test]
async fn without_a_named_field_manager_the_last_one_of_the_object_tells_gitops() {
    let kept = Arc::<Kept>::default();
    let life = Life::begin(&kept);
    let mut request = review("UPDATE", "u", 2);
    request["request"]["options"] =
        json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"});
    life.asks(&request).await;
    until("the entry", || kept.bodies().len() == 1).await;
    let actor = kept.entries.lock().expect("nobody panics")[0].actor.clone();
    assert_eq!(actor.kind, ActorKind::Gitops);
    life.end().await;
}

#[tokio::test]
async fn a_deletion_is_recorded_without_a_spec_and_a_dry_run_not_at_all() {
    let kept = Arc::<Kept>::default();
    let life = Life::begin(&kept);
    let mut dry = review("CREATE", "u", 1);
    dry["request"]["dryRun"] = json!(true);
    life.asks(&dry).await;
    life.asks(&review("DELETE", "u", 1)).await;
    until("the entry", || kept.bodies().len() == 1).await;
    let bodies = kept.bodies();
    assert_eq!(
        (&*change(&bodies[0]).verb, &change(&bodies[0]).spec),
        ("delete", &None)
    );
    assert_eq!((life.counted("dry_run"), life.counted("recorded")), (1, 1));
    life.end().await;
}

#[tokio::test]
async fn an_update_to_what_is_there_is_not_recorded_and_one_of_labels_is_told_apart() {
    let kept = Arc::<Kept>::default();
    let life = Life::begin(&kept);
    let mut again = review("UPDATE", "u", 2);
    again["request"]["oldObject"] = again["request"]["object"].clone();
    again["request"]["object"]["metadata"]["managedFields"] = json!([]);
    life.asks(&again).await;
    assert_eq!(life.counted("unchanged"), 1);
    again["request"]["object"]["metadata"]["labels"] = json!({"a": "b"});
    life.asks(&again).await;
    life.asks(&review("UPDATE", "u", 3)).await;
    until("the entries", || kept.bodies().len() == 2).await;
    let bodies = kept.bodies();
    assert!(change(&bodies[0]).metadata_only && !change(&bodies[1]).metadata_only);
    life.end().await;
    let memory = kept.memory.lock().expect("nobody panics").clone();
    assert_eq!(
        memory.objects[0].asked.len(),
        1,
        "labels are not waited for"
    );
}

#[tokio::test]
async fn what_was_asked_for_is_told_to_have_happened_when_the_watch_showed_it_even_by_the_next_operator()
 {
    let kept = Arc::<Kept>::default();
    kept.memory.lock().expect("nobody panics").watched_until = Some(Timestamp::UNIX_EPOCH);
    let life = Life::begin(&kept);
    life.asks(&review("CREATE", "u", 1)).await;
    life.asks(&review("CREATE", "refused", 1)).await;
    until("the records", || life.counted("recorded") == 2).await;
    life.end().await;

    let next = Life::begin(&kept);
    next.shows("u", 1).await;
    until("the change", || kept.bodies().len() == 3).await;
    next.end().await;
    let entries = kept.entries.lock().expect("nobody panics").clone();
    let Body::ResourceChange(change) = &entries[2].body else {
        panic!("not a change: {:?}", entries[2]);
    };
    assert_eq!(change.requests, [entries[0].id.clone()]);
    assert_eq!((&*change.user, &*change.verb), ("alice", "create"));
    assert_eq!(change.object.generation, Some(1));
    assert_eq!(entries[2].actor, entries[0].actor);
    let memory = kept.memory.lock().expect("nobody panics").clone();
    let asked = |uid: &str| {
        let object = memory.objects.iter().find(|it| it.object.uid == uid);
        object.map(|object| object.asked.len())
    };
    assert_eq!((asked("u"), asked("refused")), (Some(0), Some(1)));
}

#[tokio::test]
async fn who_confirms_a_hold_is_recorded_with_which() {
    let kept = Arc::<Kept>::default();
    let life = Life::begin(&kept);
    let mut request = review("UPDATE", "u", 1);
    request["request"]["kind"] = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    request["request"]["object"] = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "seawall-holds", "annotations": {"seawall.dev/confirm": "hold_1"}},
    });
    life.asks(&request).await;
    until("the entry", || kept.bodies().len() == 1).await;
    let bodies = kept.bodies();
    let confirmed = SpecBody::Spec(json!({"confirm": "hold_1"}));
    assert_eq!(change(&bodies[0]).spec, Some(confirmed));
    assert_eq!(change(&bodies[0]).object.kind, "ConfigMap");
    life.end().await;
}

#[tokio::test]
async fn only_who_knows_the_path_is_heard_and_nonsense_is_counted() {
    let kept = Arc::<Kept>::default();
    let life = Life::begin(&kept);
    let (status, _) = life
        .post("/admission/guess", &review("CREATE", "u", 1))
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = life.post("/admission", &review("CREATE", "u", 1)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = life.post(PATH, &json!({"no": "review"})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(life.counted("unreadable"), 1);
    life.end().await;
    assert!(kept.bodies().is_empty());
}

#[tokio::test]
async fn a_full_queue_lets_requests_through_and_counts_them() {
    let kept = Arc::<Kept>::default();
    let counts = Counts::default();
    let (recorder, _observer, witness) =
        open(kept.clone(), kept.clone(), "seawall-system", counts.clone());
    let life = Life::begin(&kept);
    let stuck = Life {
        router: router(recorder, PATH.to_owned()),
        counts,
        ..life
    };
    for _ in 0..REVIEWS + 3 {
        stuck.asks(&review("CREATE", "u", 1)).await;
    }
    assert_eq!(stuck.counted("dropped"), 3);
    drop(witness);
    stuck.end().await;
}

#[tokio::test]
async fn what_the_watch_saw_and_nobody_asked_for_is_a_gap_and_what_was_asked_for_is_none() {
    let kept = Arc::<Kept>::default();
    kept.memory.lock().expect("nobody panics").watched_until = Some(Timestamp::UNIX_EPOCH);
    let life = Life::begin(&kept);
    life.asks(&review("CREATE", "asked", 1)).await;
    life.shows("asked", 1).await;
    until("the record", || life.counted("recorded") == 1).await;
    life.shows("asked", 2).await;
    until("a gap", || !kept.gaps().is_empty()).await;
    let gaps = kept.gaps();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].objects[0].generation, Some(2));
    assert!(gaps[0].why.contains("not told"), "{}", gaps[0].why);
    let entries = kept.entries.lock().expect("nobody panics").clone();
    let gap = &entries[entries.len() - 1];
    assert_eq!(
        (gap.actor.kind, &*gap.tenant),
        (ActorKind::Unknown, "plant")
    );
    assert_eq!(life.counts.unexplained.get(), 1);
    life.end().await;
}

#[tokio::test]
async fn changes_while_no_operator_ran_are_a_gap_at_the_next_start() {
    let kept = Arc::<Kept>::default();
    let life = Life::begin(&kept);
    life.asks(&review("CREATE", "u", 1)).await;
    life.shows("u", 1).await;
    until("it to be seen", || {
        let memory = kept.memory.lock().expect("nobody panics");
        memory.objects.iter().any(|it| it.seen == 1)
    })
    .await;
    life.end().await;
    assert_eq!(kept.gaps(), []);

    let next = Life::begin(&kept);
    next.sees(Change::Reset {
        objects: [].into(),
        malformed: Vec::new(),
    })
    .await;
    until("a gap", || !kept.gaps().is_empty()).await;
    let gap = kept.gaps().remove(0);
    assert_eq!(gap.why, "deleted while no operator was running");
    assert_eq!(gap.objects[0].uid.as_deref(), Some("u"));
    assert_eq!(gap.objects[0].generation, None);
    assert!(gap.from < gap.to);
    next.end().await;
    assert!(
        kept.memory
            .lock()
            .expect("nobody panics")
            .objects
            .is_empty()
    );
}

#[tokio::test]
async fn an_audit_log_that_is_away_costs_the_record_and_the_gap_is_written_when_it_is_back() {
    let kept = Arc::<Kept>::default();
    kept.memory.lock().expect("nobody panics").watched_until = Some(Timestamp::UNIX_EPOCH);
    let life = Life::begin(&kept);
    kept.away.store(true, Ordering::Relaxed);
    life.asks(&review("CREATE", "u", 1)).await;
    life.shows("u", 1).await;
    until("the failure", || life.counted("failed") == 1).await;
    until("the verdict", || life.counts.unexplained.get() == 1).await;
    assert!(kept.bodies().is_empty());
    kept.away.store(false, Ordering::Relaxed);
    until("the gap", || kept.gaps().len() == 1).await;
    assert_eq!(life.kept.bodies().len(), 1);
    life.end().await;
}
