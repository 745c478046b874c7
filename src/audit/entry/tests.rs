use super::*;
use serde_json::json;

fn intent(parameters: serde_json::Value) -> Entry {
    let intent = Intent {
        tool: "isolate_device".into(),
        parameters,
        reason: "lateral movement".into(),
        dry_run: false,
        target: Some("dev_1".into()),
        call: None,
    };
    let actor = Actor::new(ActorKind::Agent, "plant/triage").via("mcp");
    Entry::new("plant", actor, Body::Intent(intent))
}

#[test]
fn an_entry_is_one_line_of_json_with_the_documented_names() {
    let mut entry = intent(json!({"device": "dev_1"}));
    entry.id = "aud_01".into();
    entry.time = "2026-11-21T03:55:00Z".parse().unwrap();
    let text = String::from_utf8(entry.encode().unwrap()).unwrap();
    assert_eq!(
        text,
        r#"{"actor":{"kind":"agent","name":"plant/triage","via":"mcp"},"data":{"dryRun":false,"parameters":{"device":"dev_1"},"reason":"lateral movement","target":"dev_1","tool":"isolate_device"},"id":"aud_01","kind":"intent","tenant":"plant","time":"2026-11-21T03:55:00Z"}"#
    );
}

#[test]
fn entries_of_every_kind_read_back_as_they_were() {
    let object = ObjectRef {
        kind: "Isolation".into(),
        namespace: "plant".into(),
        name: "cam".into(),
        uid: Some("u".into()),
        generation: Some(2),
    };
    let time: Timestamp = "2026-11-21T03:55:00Z".parse().unwrap();
    let text = || "x".to_owned();
    let objects = || vec![object.clone()];
    let bodies = [
        intent(json!([1])).body,
        Body::Outcome(Outcome {
            intent: text(),
            tool: text(),
            result: ActionResult::Refused,
            dry_run: true,
            objects: objects(),
            message: text(),
            milliseconds: 3,
            target: None,
            call: Some(text()),
        }),
        Body::Refusal(Refusal {
            tool: text(),
            parameters: json!({}),
            by: RefusedBy::ApiServer,
            code: text(),
            why: text(),
            target: None,
            call: None,
        }),
        Body::Read(Read {
            tool: text(),
            arguments_hash: text(),
            result: ActionResult::Done,
            milliseconds: 1,
            call: None,
        }),
        Body::ChangeRequest(ChangeRequest {
            user: text(),
            groups: vec![text()],
            verb: text(),
            object: object.clone(),
            metadata_only: true,
            spec: Some(SpecBody::Spec(json!({"a": 1}))),
        }),
        Body::ResourceChange(ResourceChange {
            user: text(),
            verb: text(),
            object: object.clone(),
            requests: vec![text()],
        }),
        Body::ChangeNotSeen(ChangeNotSeen {
            user: text(),
            verb: text(),
            object: object.clone(),
            request: text(),
            why: text(),
        }),
        Body::Gap(Gap {
            from: time,
            to: time,
            why: text(),
            objects: objects(),
        }),
        Body::Enforcement(Enforcement {
            action: text(),
            device: text(),
            objects: objects(),
            milliseconds: Some(4),
            detail: None,
        }),
        Body::Device(Device {
            event: text(),
            device: text(),
            detail: Some(json!("d")),
        }),
        Body::Hold(Hold {
            hold: text(),
            event: text(),
            objects: objects(),
            by: Some(text()),
        }),
        Body::Service(Service {
            event: text(),
            version: text(),
            detail: None,
        }),
    ];
    for body in bodies {
        let entry = Entry::new("plant", Actor::operator(), body);
        let entry = entry.with_client(Client::new("inspector", Some("2.12")));
        let bytes = entry.encode().unwrap();
        assert_eq!(Entry::decode(&bytes).unwrap(), entry);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["kind"], entry.body.kind().as_str());
        let kind = serde_json::from_value::<Kind>(value["kind"].clone());
        assert_eq!(
            kind.unwrap(),
            entry.body.kind(),
            "it is searched by that name"
        );
    }
}

#[test]
fn hostile_names_lose_their_control_characters_and_parameters_are_escaped() {
    let mut entry = intent(json!({"device": "dev\u{1b}[2J\n\"}"}));
    entry.actor = Actor::new(ActorKind::Agent, "a\u{1b}[2J\nb\u{202e}").via("m\0cp");
    entry.client = Some(Client::new(&"x".repeat(10_000), None));
    let bytes = entry.encode().unwrap();
    assert!(
        bytes.iter().all(|byte| *byte >= b' '),
        "one line, no escapes"
    );
    let read = Entry::decode(&bytes).unwrap();
    assert_eq!(read.actor.name, "a[2Jb");
    assert_eq!(read.client.unwrap().name.chars().count(), NAME);
    assert_eq!(read.body, entry.body);
}

#[test]
fn an_entry_that_is_too_long_is_refused_and_never_cut() {
    let fits = intent(json!("x".repeat(MAX_BYTES - 500)));
    assert!(fits.encode().unwrap().len() > MAX_BYTES - 500);
    let error = intent(json!("x".repeat(MAX_BYTES))).encode().unwrap_err();
    let words = error.to_string();
    assert!(
        words.contains("60000") && words.contains("shorter"),
        "{words}"
    );
}

#[test]
fn a_spec_that_is_too_long_is_replaced_by_its_hash() {
    let spec = json!({"rules": "x".repeat(MAX_BYTES)});
    let request = ChangeRequest {
        user: "kubernetes-admin".into(),
        groups: vec![],
        verb: "create".into(),
        object: ObjectRef::default(),
        metadata_only: false,
        spec: Some(SpecBody::Spec(spec.clone())),
    };
    let entry = Entry::new("plant", Actor::operator(), Body::ChangeRequest(request));
    let Body::ChangeRequest(read) = Entry::decode(&entry.encode().unwrap()).unwrap().body else {
        panic!("another kind");
    };
    let expected = hex::encode(Sha256::digest(canonical_json(&spec)));
    let Some(SpecBody::Hash { sha256, bytes }) = read.spec else {
        panic!("{:?}", read.spec);
    };
    assert_eq!((sha256, bytes), (expected, MAX_BYTES + 12));
}
