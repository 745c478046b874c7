//! What only its owner may read: folders of runs, what `make up` writes, and the operator's data.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use libtest_mimic::Trial;

use crate::harness::case;
use crate::operators::Fixture;
use crate::run;
use crate::up::private_file;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "nobody else enters a run's folder or reads what `make up` writes",
            of_runs,
        ),
        case(
            "nobody else reads the operator's database, audit log, token or sockets",
            of_the_operator,
        ),
    ]
}

fn mode(path: &Path) -> anyhow::Result<u32> {
    let found = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    Ok(found.permissions().mode() & 0o777)
}

async fn of_runs() -> anyhow::Result<()> {
    let scratch = run::scratch("private")?;
    let of_run = scratch.parent().context("the run's folder")?;
    assert_eq!(mode(of_run)?, 0o700);
    let folder = scratch.join("up");
    run::private_folder(&folder)?;
    assert_eq!(mode(&folder)?, 0o700);
    let file = folder.join("kubeconfig");
    private_file(&file)?.write_all(b"users: []")?;
    assert_eq!(mode(&file)?, 0o600);
    assert!(
        private_file(&file).is_err(),
        "what is there has a mode already"
    );
    Ok(())
}

async fn of_the_operator() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    let home = fixture.home(0);
    for (path, wanted) in [
        ("data", 0o700),
        ("data/seawall.db", 0o600),
        ("data/seawall.db-wal", 0o600),
        ("data/seawall.db-shm", 0o600),
        ("data/operator.lock", 0o600),
        ("data/audit", 0o700),
        ("mcp-token", 0o600),
        ("local.sock", 0o600),
        ("admin.sock", 0o600),
    ] {
        assert_eq!(mode(&home.join(path))?, wanted, "{path}");
    }
    Ok(())
}
