//! Users by MCP: what an agent suspends and restores, and what it is refused, by the real API server.

use libtest_mimic::Trial;
use seawall::access::Decision;
use seawall::api::stamps;
use serde_json::{Value, json};

use super::stand::{Agent, Stand};
use crate::harness::case;
use crate::tests::admission::tenant::{DEVICE, containing, containing_users};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "whom an agent may not suspend is refused in words, and nothing is written",
            refusals,
        ),
        case(
            "without our own decision the API server holds an agent to the users of its scope",
            undecided,
        ),
        case(
            "what others suspended an agent does not restore, and is told who did",
            of_others,
        ),
        case(
            "an agent suspends a user by its names, sees what is not refused, and restores it",
            suspends,
        ),
    ]
}

async fn isolations(stand: &Stand) -> anyhow::Result<Vec<Value>> {
    let namespace = stand.tenant.namespace;
    let path = format!("/apis/seawall.dev/v1alpha1/namespaces/{namespace}/isolations");
    let list = stand.tenant.admin.get_path(&path).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// With a reason and a time.
fn suspending(what: Value) -> Value {
    let mut arguments = json!({"user": "mallory", "reason": "Stolen laptop", "ttl": "30m"});
    if let (Some(arguments), Some(what)) = (arguments.as_object_mut(), what.as_object()) {
        arguments.extend(what.clone());
    }
    arguments
}

const IDS: [&str; 2] = ["mallory", "m.smith"];

async fn refusals() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-users-refusals").await?;
    let bot = stand
        .agent("bot", containing_users(&IDS), &[DEVICE])
        .await?;
    let devices = containing(&[DEVICE]);
    let devices = stand.agent("devices", devices, &[DEVICE]).await?;
    let mut everybody = containing(&[DEVICE]);
    everybody["targets"]["users"] = json!({"all": true});
    let all = stand.agent("all", everybody, &[DEVICE]).await?;
    let (bot, devices) = (stand.modern(&bot).await?, stand.modern(&devices).await?);
    let all = stand.modern(&all).await?;
    let outside = "each name has to be among its targets.users";
    for (client, what, code, words) in [
        (&bot, json!({"user": "alice"}), "outside_targets", outside),
        (
            &bot,
            json!({"os": ["alice"]}),
            "outside_targets",
            "suspend alice",
        ),
        (
            &bot,
            json!({"kubernetes": ["m.smith", "bob"], "dry_run": true}),
            "outside_targets",
            "suspend bob",
        ),
        (&bot, json!({"seawall": ["all"]}), "outside_targets", "all"),
        (&devices, json!({}), "no_targets", "targets.users"),
        (
            &all,
            json!({"user": "system:masters"}),
            "protected_user",
            "Kubernetes' own",
        ),
        (
            &all,
            json!({"kubernetes": ["system:serviceaccount:seawall-system:seawall"]}),
            "protected_user",
            "Kubernetes' own",
        ),
        (&all, json!({"user": "root"}), "protected_user", "no person"),
        (&all, json!({"os": ["root"]}), "protected_user", "no person"),
        (
            &all,
            json!({"seawall": ["all"]}),
            "protected_user",
            "itself",
        ),
        (&all, json!({"user": "all"}), "protected_user", "itself"),
        (&bot, json!({"ttl": "2h"}), "too_long", "at most 1h"),
        (&bot, json!({"ttl": null}), "end_required", "at most 1h"),
        (&bot, json!({"user": " "}), "invalid", "is no id of a user"),
        (&bot, json!({"reason": " "}), "invalid", "reason is blank"),
        (
            &bot,
            json!({"management": []}),
            "invalid",
            "takes no argument",
        ),
    ] {
        let (found, said) = client
            .failure("suspend_user", suspending(what.clone()))
            .await?;
        assert_eq!(found, code, "{what}: {said}");
        assert!(said.contains(words), "{what}: {said}");
    }
    assert!(isolations(&stand).await?.is_empty());
    assert!(stand.operator.logged("intent").is_empty());
    let refused = stand.operator.logged("refusal");
    assert_eq!(refused[0]["data"]["target"], "user/alice");
    stand.end().await
}

async fn undecided() -> anyhow::Result<()> {
    let stand = Stand::deciding_by(|_, _, _| Decision::Allow, "mcp-users-undecided").await?;
    let bot = stand
        .agent("bot", containing_users(&IDS), &[DEVICE])
        .await?;
    let reads = json!({"access": "Investigate", "targets": {"users": {"all": true}}});
    let reads = stand.agent("reads", reads, &[]).await?;
    let devices = containing(&[DEVICE]);
    let devices = stand.agent("devices", devices, &[DEVICE]).await?;
    let (bot, reads) = (stand.modern(&bot).await?, stand.modern(&reads).await?);
    let devices = stand.modern(&devices).await?;
    let user = |name: &str| format!("user {name} is not a target of the ApiKeyScope");
    for (client, what, words) in [
        (&bot, json!({"user": "alice"}), user("alice")),
        (
            &bot,
            json!({"user": "alice", "dry_run": true}),
            user("alice"),
        ),
        (&bot, json!({"os": ["alice"]}), user("alice")),
        (&bot, json!({"kubernetes": ["alice"]}), user("alice")),
        (&bot, json!({"seawall": ["alice"]}), user("alice")),
        (&devices, json!({}), user("mallory")),
        (
            &bot,
            json!({"user": "system:masters"}),
            "cannot be suspended".to_owned(),
        ),
        (
            &bot,
            json!({"kubernetes": ["system:masters"]}),
            "cannot be suspended".to_owned(),
        ),
        (
            &bot,
            json!({"ttl": "2h"}),
            "allows isolations of at most 1h".to_owned(),
        ),
        (
            &reads,
            json!({}),
            "cannot get resource \"isolations\"".to_owned(),
        ),
    ] {
        let (code, said) = client
            .failure("suspend_user", suspending(what.clone()))
            .await?;
        assert_eq!(code, "refused_by_api_server", "{what}: {said}");
        assert!(said.contains(&words), "{what}: {said}");
    }
    assert!(isolations(&stand).await?.is_empty());
    stand.end().await
}

/// An Isolation of mallory that a person applied.
async fn by_hand(stand: &Stand) -> anyhow::Result<()> {
    let spec =
        json!({"target": {"user": "mallory"}, "userNames": {"os": ["mallory"]}, "reason": "x"});
    let object = stand.tenant.object("Isolation", "by-hand", spec);
    stand.tenant.admin.create(&object).await.map(drop)?;
    Ok(())
}

async fn of_others() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-users-others").await?;
    let one = stand
        .agent("one", containing_users(&IDS), &[DEVICE])
        .await?;
    let two = stand
        .agent("two", containing_users(&IDS), &[DEVICE])
        .await?;
    let (one, two) = (stand.modern(&one).await?, stand.modern(&two).await?);
    let restoring = json!({"user": "mallory", "reason": "Cleared"});
    let nothing = one.call("restore_user", restoring.clone()).await?;
    assert_eq!(nothing["restored"], json!([]));
    let answer = two.call("suspend_user", suspending(json!({}))).await?;
    let (code, said) = one.failure("restore_user", restoring.clone()).await?;
    assert_eq!(code, "not_its_own", "{said}");
    assert!(said.contains("the agent two"), "{said}");
    assert_eq!(isolations(&stand).await?.len(), 1);

    by_hand(&stand).await?;
    // It shares an account with mallory, under another id.
    let shared = json!({"user": "m.smith", "os": ["mallory"], "kubernetes": [], "seawall": []});
    one.call("suspend_user", suspending(shared)).await?;
    let own = one.call("suspend_user", suspending(json!({}))).await?;
    assert_ne!(own["isolation"], answer["isolation"]);
    let elsewhere = vec!["seawall-system/everywhere".to_owned()];
    *stand.operator.also.lock().expect("not poisoned") = elsewhere;
    let restored = one.call("restore_user", restoring).await?;
    assert_eq!(restored["restored"], json!([own["isolation"]]));
    let still = restored["still_isolated_by"].as_array().cloned();
    let authors: Vec<Value> = still.into_iter().flatten().collect();
    let by = |author: &str| authors.iter().any(|it| it["written_by"] == author);
    assert_eq!(authors.len(), 4, "{restored}");
    assert!(by("agent two") && by("agent one") && by("a person or GitOps"));
    let named = restored["still_isolated_by"].to_string();
    assert!(!named.contains("everywhere"), "{named}");
    assert!(named.contains("an Isolation of another namespace"));
    assert_eq!(isolations(&stand).await?.len(), 3);
    stand.end().await
}

async fn suspends() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-users").await?;
    let bot = stand
        .agent("bot", containing_users(&IDS), &[DEVICE])
        .await?;
    let client = stand.modern(&bot).await?;
    let dry = suspending(json!({"dry_run": true}));
    let answer = client.call("suspend_user", dry).await?;
    assert_eq!(answer["in_force"], "NotWritten");
    assert!(isolations(&stand).await?.is_empty());

    let names = json!({"os": ["m.smith"], "seawall": [], "incident": "inc_1"});
    let answer = client
        .call("suspend_user", suspending(names.clone()))
        .await?;
    assert_eq!(answer["in_force"], "Partial", "reads go on: {answer}");
    let device =
        json!({"id": DEVICE, "programmed": true, "connected": true, "dropped": ["m.smith"]});
    assert_eq!(answer["devices"]["each"], json!([device]));
    assert_eq!(answer["devices"]["nodes"], 2);
    assert_eq!(answer["kubernetes"], json!(["mallory"]));
    assert_eq!(answer["writes_refused"], true);
    let outside = answer["not_refused"].to_string();
    assert!(outside.contains("identity provider"), "{outside}");
    let written = &isolations(&stand).await?[0];
    assert_eq!(written["metadata"]["name"], answer["isolation"]);
    assert_eq!(written["spec"]["target"], json!({"user": "mallory"}));
    let user_names = json!({"os": ["m.smith"], "seawall": []});
    assert_eq!(written["spec"]["userNames"], user_names);
    let user = stamps::agent_user("mcp-users", "bot");
    assert_eq!(written["metadata"]["annotations"][stamps::WRITTEN_BY], user);
    let again = client.call("suspend_user", suspending(names)).await?;
    assert_eq!(again["already_suspended"], true);

    // On devices alone there is nothing that goes on reading.
    let devices = json!({"kubernetes": [], "seawall": []});
    let answer = client.call("suspend_user", suspending(devices)).await?;
    assert_eq!(answer["in_force"], "Everywhere", "{answer}");
    assert_eq!(answer["already_suspended"], false);
    listed(&client).await?;

    let restoring = json!({"user": "mallory", "reason": "Cleared", "dry_run": true});
    let answer = client.call("restore_user", restoring).await?;
    assert_eq!(answer["restored"].as_array().map(Vec::len), Some(2));
    assert_eq!(isolations(&stand).await?.len(), 2);
    let restoring = json!({"user": "mallory", "reason": "Cleared"});
    let answer = client.call("restore_user", restoring).await?;
    assert_eq!(answer["lifted_everywhere"], true);
    assert_eq!(answer["still_isolated_by"], json!([]));
    assert!(isolations(&stand).await?.is_empty());
    let outcomes = stand.operator.logged("outcome");
    assert_eq!(outcomes[1]["data"]["target"], "user/mallory");
    stand.end().await
}

async fn listed(client: &Agent) -> anyhow::Result<()> {
    let detailed = json!({"user": "mallory", "response_format": "detailed"});
    let listed = client.call("list_isolations", detailed).await?;
    let found = listed["isolations"].as_array().cloned().unwrap_or_default();
    assert_eq!(found.len(), 2, "{listed}");
    assert_eq!(found[0]["target"], "user/mallory");
    let names = found.iter().map(|it| &it["detail"]["names"]);
    let wanted = json!({"os": ["m.smith"], "kubernetes": ["mallory"], "seawall": []});
    assert!(names.into_iter().any(|it| *it == wanted), "{listed}");
    let other = client
        .call("list_isolations", json!({"user": "alice"}))
        .await?;
    assert_eq!(other["isolations"], json!([]));
    Ok(())
}
