//! What the cluster's own roles let people do with Seawall's kinds.

use libtest_mimic::Trial;
use serde_json::json;

use super::tenant::{DEVICE, Tenant, denying};
use crate::caller::assert_refused;
use crate::harness::case;

pub fn all() -> Vec<Trial> {
    vec![case(
        "view reads, edit writes policies and isolations, admin writes scopes too",
        roles,
    )]
}

async fn roles() -> anyhow::Result<()> {
    let tenant = Tenant::new("people").await?;
    let viewer = tenant.person("vera", "view").await?;
    let editor = tenant.person("edith", "edit").await?;
    let administrator = tenant.person("adam", "admin").await?;
    let isolation = tenant.object(
        "Isolation",
        "i",
        json!({"target": {"device": DEVICE}, "reason": "test"}),
    );
    let policy = tenant.object("Policy", "p", denying(json!({"all": true})));
    let scope = tenant.object("ApiKeyScope", "s", json!({"access": "Investigate"}));

    for object in [&isolation, &policy, &scope] {
        assert_refused(viewer.try_create(object).await, "cannot create resource");
        administrator.try_create(object).await?;
    }
    for object in [&isolation, &policy] {
        editor.create(object).await?;
        viewer.get(object).await?;
        editor.delete(object).await?;
    }
    assert_refused(editor.try_create(&scope).await, "cannot create resource");
    let status = json!({"status": {"phase": "Isolated"}});
    administrator.create(&isolation).await?;
    assert_refused(
        administrator.merge(&isolation, "/status", &status).await,
        "cannot patch resource",
    );
    Ok(())
}
