//! Every cell of the table: access × tool × target × limits × approval × rates × expiry.

use super::*;
use crate::api::api_key_scope::{Limits, UserTargets};
use crate::api::stamps;

/// A scope of one target device, `device(1)`, of the pods with `app: web`, of which `web-0` runs, and of a user with
/// two names.
pub fn principal(access: Access) -> Principal {
    Principal {
        tenant: "plant-a".into(),
        agent: "soc-bot".into(),
        user: stamps::agent_user("plant-a", "soc-bot"),
        access,
        tools: Vec::new(),
        devices: vec![device(1)],
        all_devices: false,
        target_tags: BTreeMap::new(),
        pods: vec!["web-0".into()],
        target_pods: Some(labelled(&[("app", "web")])),
        users: Some(UserTargets {
            ids: vec!["mallory".into(), "m.smith".into()],
            all: false,
        }),
        limits: Limits::default(),
        needs_approval: Vec::new(),
        expires_at: None,
    }
}

pub fn device(number: u128) -> DeviceId {
    DeviceId::from_ulid(ulid::Ulid::from_parts(1, number))
}

fn labelled(labels: &[(&str, &str)]) -> LabelSelector {
    let labels = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    LabelSelector {
        match_labels: Some(labels.collect()),
        match_expressions: None,
    }
}

fn quiet() -> Circumstances {
    Circumstances {
        now: Timestamp::UNIX_EPOCH,
        calls: Rate::Within,
        actions: Rate::Within,
    }
}

fn code(principal: &Principal, intent: &Intent) -> Option<RefusalCode> {
    code_in(principal, intent, &quiet())
}

fn code_in(principal: &Principal, intent: &Intent, at: &Circumstances) -> Option<RefusalCode> {
    match decide(principal, intent, at) {
        Decision::Allow => None,
        Decision::Refuse(refusal) => {
            assert!(refusal.message.len() > 20, "in words: {refusal:?}");
            Some(refusal.code)
        }
    }
}

fn user(names: &[&str], agents: &[&str]) -> Target {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Target::User {
        names: set(names),
        agents: set(agents),
    }
}

const ACCESS: [Access; 4] = [
    Access::Investigate,
    Access::Contain,
    Access::Manage,
    Access::Custom,
];

fn targets() -> [Target; 13] {
    let own = Target::Written {
        name: "isolate-x".into(),
        by: Some(stamps::agent_user("plant-a", "soc-bot")),
    };
    let other = Target::Written {
        name: "isolate-x".into(),
        by: Some(stamps::agent_user("plant-a", "other-bot")),
    };
    let persons = Target::Written {
        name: "isolate-x".into(),
        by: None,
    };
    [
        Target::Unresolved,
        Target::Devices([device(1)].into()),
        Target::Devices([device(1), device(2)].into()),
        Target::Fleet,
        own,
        other,
        persons,
        Target::Pods(["web-0".to_owned()].into()),
        Target::Workloads(labelled(&[("app", "web")])),
        Target::Pods(["web-0".to_owned(), "db-0".to_owned()].into()),
        Target::Workloads(labelled(&[("app", "web"), ("tier", "front")])),
        user(&["mallory", "m.smith"], &["mallory"]),
        user(&["mallory", "alice"], &[]),
    ]
}

/// What the table says, written apart from how `decide` finds it.
fn expected(access: Access, tool: Tool, target: usize) -> Option<RefusalCode> {
    let has_tool = match access {
        Access::Investigate => !tool.is_action(),
        Access::Contain | Access::Manage => true,
        // The table's Custom scope names these two.
        Access::Custom => matches!(tool, Tool::ListDevices | Tool::IsolateDevice),
    };
    if !has_tool {
        return Some(RefusalCode::ToolNotInScope);
    }
    match target {
        0 | 1 | 4 | 7 | 8 | 11 => None,
        2 | 3 | 9 | 10 | 12 => Some(RefusalCode::OutsideTargets),
        _ => Some(RefusalCode::NotItsOwn),
    }
}

#[test]
fn every_access_meets_every_tool_and_every_target_as_the_table_says() {
    let mut cells = 0;
    for access in ACCESS {
        let mut scope = principal(access);
        if access == Access::Custom {
            scope.tools = vec!["list_devices".into(), "isolate_device".into()];
        }
        for tool in Tool::ALL {
            for (number, target) in targets().into_iter().enumerate() {
                let intent = Intent {
                    target: target.clone(),
                    ..Intent::of(tool)
                };
                assert_eq!(
                    code(&scope, &intent),
                    expected(access, tool, number),
                    "{access:?} {tool:?} {target:?}"
                );
                cells += 1;
            }
        }
    }
    assert_eq!(cells, 4 * Tool::ALL.len() * 13);
}

#[test]
fn a_scope_of_every_device_acts_on_any_and_on_the_fleet_but_not_on_what_others_wrote() {
    let mut scope = principal(Access::Contain);
    scope.all_devices = true;
    scope.devices.clear();
    for (number, target) in targets().into_iter().enumerate() {
        let intent = Intent {
            target,
            ..Intent::of(Tool::IsolateDevice)
        };
        let expected = match number {
            5 | 6 => Some(RefusalCode::NotItsOwn),
            // Every device is no pod, and no user.
            9 | 10 | 12 => Some(RefusalCode::OutsideTargets),
            _ => None,
        };
        assert_eq!(code(&scope, &intent), expected, "{intent:?}");
    }
}

#[test]
fn a_scope_of_devices_alone_acts_on_no_pod_and_no_user_and_says_what_to_ask_for() {
    let mut scope = principal(Access::Manage);
    scope.all_devices = true;
    scope.target_pods = None;
    scope.users = None;
    for target in &targets()[7..] {
        let intent = Intent {
            target: target.clone(),
            ..Intent::of(Tool::IsolateWorkload)
        };
        assert_eq!(code(&scope, &intent), Some(RefusalCode::NoTargets));
    }
}

#[test]
fn every_name_of_a_user_has_to_be_a_target() {
    let mut scope = principal(Access::Contain);
    let code_of = |scope: &Principal, target: Target| {
        let intent = Intent {
            target,
            ..Intent::of(Tool::SuspendUser)
        };
        code(scope, &intent)
    };
    let outside = Some(RefusalCode::OutsideTargets);
    assert_eq!(code_of(&scope, user(&["alice"], &[])), outside);
    assert_eq!(code_of(&scope, user(&["mallory", "alice"], &[])), outside);
    assert_eq!(code_of(&scope, user(&["Mallory"], &[])), outside);
    assert_eq!(code_of(&scope, user(&["m.smith"], &[])), None);
    scope.users = Some(UserTargets {
        ids: Vec::new(),
        all: true,
    });
    assert_eq!(code_of(&scope, user(&["alice"], &["alice"])), None);
    scope.users = Some(UserTargets::default());
    assert_eq!(code_of(&scope, user(&["mallory"], &[])), outside);
}

#[test]
fn nobody_suspends_the_clusters_own_root_or_the_agent_itself() {
    let mut scope = principal(Access::Manage);
    for all in [false, true] {
        scope.users = Some(UserTargets {
            ids: vec!["mallory".into()],
            all,
        });
        let own = scope.user.clone();
        for (names, agents) in [
            (&["mallory", "system:masters"][..], &[][..]),
            (&["system:serviceaccount:seawall-system:seawall"], &[]),
            (&[own.as_str()], &[]),
            (&["mallory", "root"], &[]),
            (&["mallory", "soc-bot"], &["soc-bot"]),
        ] {
            let intent = Intent {
                target: user(names, agents),
                ..Intent::of(Tool::SuspendUser)
            };
            let refused = Some(RefusalCode::ProtectedUser);
            assert_eq!(code(&scope, &intent), refused, "{names:?}");
        }
    }
    // A person of that name is no agent.
    let intent = Intent {
        target: user(&["soc-bot"], &[]),
        ..Intent::of(Tool::SuspendUser)
    };
    assert_eq!(code(&scope, &intent), None);
}

#[test]
fn a_selector_that_is_refused_says_which_one_is_not() {
    let words = |scope: &Principal| {
        let intent = Intent {
            target: Target::Workloads(labelled(&[("app", "db")])),
            ..Intent::of(Tool::IsolateWorkload)
        };
        match decide(scope, &intent, &quiet()) {
            Decision::Allow => String::new(),
            Decision::Refuse(refusal) => refusal.message,
        }
    };
    let mut scope = principal(Access::Contain);
    let labels = "give exactly the labels of its targets, app=web, or name pods";
    assert!(words(&scope).contains(labels), "{}", words(&scope));
    let selector = serde_json::json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]});
    scope.target_pods = serde_json::from_value(selector).ok();
    let expressions = "chosen by matchExpressions, or name pods";
    assert!(words(&scope).contains(expressions), "{}", words(&scope));
}

#[test]
fn a_scope_without_targets_acts_on_nothing() {
    let mut scope = principal(Access::Manage);
    scope.devices.clear();
    for target in &targets()[1..4] {
        let intent = Intent {
            target: target.clone(),
            ..Intent::of(Tool::IsolateDevice)
        };
        assert_eq!(code(&scope, &intent), Some(RefusalCode::NoTargets));
    }
}

#[test]
fn devices_by_tags_are_targets_when_the_tags_hold_all_of_the_scopes() {
    let tags = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let owned = pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        owned.collect()
    };
    let mut tagged = principal(Access::Contain);
    tagged.target_tags = tags(&[("kind", "camera")]);
    let by_id = principal(Access::Contain);
    let outside = Some(RefusalCode::OutsideTargets);
    let cases = [
        (&tagged, tags(&[("kind", "camera")]), 1, None),
        (&tagged, tags(&[("kind", "camera"), ("site", "a")]), 1, None),
        (&tagged, tags(&[("kind", "camera")]), 2, outside),
        (&tagged, tags(&[("kind", "laptop")]), 1, outside),
        (&tagged, tags(&[("site", "a")]), 1, outside),
        (&tagged, tags(&[]), 1, outside),
        (&by_id, tags(&[("kind", "camera")]), 1, outside),
    ];
    for (scope, tags, number, expected) in cases {
        let intent = Intent {
            target: Target::Tagged {
                tags,
                devices: [device(number)].into(),
            },
            ..Intent::of(Tool::CreatePolicy)
        };
        assert_eq!(code(scope, &intent), expected, "{intent:?}");
    }
}

#[test]
fn a_tool_that_needs_approval_is_refused_to_every_access() {
    for access in ACCESS {
        for tool in Tool::ALL {
            let mut scope = principal(access);
            scope.tools = Tool::ALL.map(|tool| tool.name().to_owned()).to_vec();
            scope.needs_approval = vec![tool.name().to_owned()];
            if tool.is_in(access, &scope.tools) {
                let refused = Some(RefusalCode::NeedsApproval);
                assert_eq!(code(&scope, &Intent::of(tool)), refused);
            }
        }
    }
}

#[test]
fn the_longest_isolation_bounds_lengths_and_demands_an_end() {
    let cases = [
        (None, Lasts::UntilDeleted, None),
        (None, Lasts::For(Duration::MAX), None),
        (Some("24h"), Lasts::NotATime, None),
        (Some("24h"), Lasts::For(Duration::from_secs(86_400)), None),
        (
            Some("24h"),
            Lasts::For(Duration::from_secs(86_401)),
            Some(RefusalCode::TooLong),
        ),
        (
            Some("24h"),
            Lasts::UntilDeleted,
            Some(RefusalCode::EndRequired),
        ),
        (
            Some("a day"),
            Lasts::For(Duration::from_secs(1)),
            Some(RefusalCode::TooLong),
        ),
    ];
    for (limit, lasts, expected) in cases {
        let mut scope = principal(Access::Contain);
        scope.limits.max_isolation = limit.map(str::to_owned);
        let intent = Intent {
            lasts,
            ..Intent::of(Tool::IsolateDevice)
        };
        assert_eq!(code(&scope, &intent), expected, "{limit:?} {lasts:?}");
    }
}

#[test]
fn only_manage_and_a_custom_scope_with_the_tool_may_write_what_allows() {
    for access in ACCESS {
        let mut scope = principal(access);
        scope.tools = vec!["create_policy".into()];
        let intent = Intent {
            allows: true,
            ..Intent::of(Tool::CreatePolicy)
        };
        let expected = match access {
            Access::Investigate => Some(RefusalCode::ToolNotInScope),
            Access::Contain => Some(RefusalCode::AllowNotInScope),
            Access::Manage | Access::Custom => None,
        };
        assert_eq!(code(&scope, &intent), expected, "{access:?}");
    }
}

#[test]
fn rates_refuse_with_when_to_come_back_and_actions_only_what_acts() {
    let exceeded = Rate::Exceeded {
        retry_after: Duration::from_millis(1500),
    };
    for tool in Tool::ALL {
        let scope = principal(Access::Manage);
        let too_many_calls = Circumstances {
            calls: exceeded,
            ..quiet()
        };
        let refused = Some(RefusalCode::CallsPerMinute);
        assert_eq!(code_in(&scope, &Intent::of(tool), &too_many_calls), refused);

        let too_many_actions = Circumstances {
            actions: exceeded,
            ..quiet()
        };
        let refused = tool.is_action().then_some(RefusalCode::ActionsPerHour);
        assert_eq!(
            code_in(&scope, &Intent::of(tool), &too_many_actions),
            refused
        );
        let dry_run = Intent {
            dry_run: true,
            ..Intent::of(tool)
        };
        assert_eq!(code_in(&scope, &dry_run, &too_many_actions), None);
        if let Decision::Refuse(refusal) = decide(&scope, &Intent::of(tool), &too_many_calls) {
            assert!(refusal.message.contains("in 2 seconds"), "{refusal:?}");
        }
    }
}

#[test]
fn a_key_works_until_its_scope_expires_and_not_at_that_moment() {
    let end: Timestamp = "2026-11-21T12:00:00Z".parse().expect("a time");
    for access in ACCESS {
        for tool in Tool::ALL {
            let mut scope = principal(access);
            scope.tools = Tool::ALL.map(|tool| tool.name().to_owned()).to_vec();
            scope.expires_at = Some(end);
            let at = |now| Circumstances { now, ..quiet() };
            let intent = Intent::of(tool);
            let before = code_in(
                &scope,
                &intent,
                &at(end - jiff::SignedDuration::from_secs(1)),
            );
            assert_ne!(before, Some(RefusalCode::KeyExpired));
            let then = code_in(&scope, &intent, &at(end));
            assert_eq!(then, Some(RefusalCode::KeyExpired));
        }
    }
}
