//! The images that nodes have: one that only waits, a shell, and the product.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use tokio::sync::OnceCell;

use super::PATIENCE;
use super::components::PAUSE;
use super::image::{Image, Recipe};
use super::needs::{AUTHORITIES, find};
use crate::process;
use crate::run;

/// A shell with the small programs of busybox. It waits when it is told nothing.
pub const SHELL: &str = "localhost/shell:test";
/// Seawall as it is released: one program, nft for the agent, and the authorities that the world trusts,
/// without which no HTTP client can be made.
pub const SEAWALL: &str = "localhost/seawall:test";

const APPLETS: [&str; 13] = [
    "sh", "sleep", "timeout", "cat", "echo", "nc", "wget", "httpd", "ls", "true", "ip", "id", "env",
];

/// What every node has.
pub async fn basic() -> anyhow::Result<&'static [Image]> {
    static BUILT: OnceCell<[Image; 2]> = OnceCell::const_new();
    let built = BUILT.get_or_try_init(|| blocking(|| Ok([pause()?, shell_image(SHELL, WAIT)?])));
    Ok(built.await?)
}

/// The shell under another image's name, running this instead.
pub async fn shell_as(name: &'static str, script: &'static str) -> anyhow::Result<Image> {
    blocking(move || shell_image(name, script)).await
}

/// The program as it was compiled for the tests.
pub async fn seawall() -> anyhow::Result<&'static Image> {
    static BUILT: OnceCell<Image> = OnceCell::const_new();
    BUILT
        .get_or_try_init(|| {
            blocking(|| {
                let seawall = PathBuf::from(env!("CARGO_BIN_EXE_seawall"));
                let recipe = Recipe {
                    name: SEAWALL,
                    programs: &[
                        (seawall, "/usr/local/bin/seawall"),
                        (program("nft")?, "/usr/sbin/nft"),
                    ],
                    files: &[AUTHORITIES],
                    links: &[],
                    entrypoint: &["/usr/local/bin/seawall"],
                    user: "65532:65532",
                };
                recipe.build(&folder()?)
            })
        })
        .await
}

fn pause() -> anyhow::Result<Image> {
    let recipe = Recipe {
        name: PAUSE,
        programs: &[(program("busybox")?, "/bin/busybox")],
        files: &[],
        links: &[],
        entrypoint: &["/bin/busybox", "sleep", "infinity"],
        user: "65535:65535",
    };
    recipe.build(&folder()?)
}

/// The shell passes nothing on, but ends when it is asked to.
const WAIT: &str = "trap 'exit 0' TERM; sleep infinity & wait";

fn shell_image(name: &str, script: &str) -> anyhow::Result<Image> {
    let paths = APPLETS.map(|applet| format!("/bin/{applet}"));
    let links: Vec<_> = paths
        .iter()
        .map(|path| (path.as_str(), "busybox"))
        .collect();
    let recipe = Recipe {
        name,
        programs: &[(program("busybox")?, "/bin/busybox")],
        files: &[],
        links: &links,
        entrypoint: &["/bin/sh", "-c", script],
        user: "0:0",
    };
    recipe.build(&folder()?)
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    find(name).with_context(|| format!("{name} is not on PATH"))
}

/// It has a name that goes with the run.
fn folder() -> anyhow::Result<PathBuf> {
    let folder = run::scratch("image")?.join(run::DATA);
    std::fs::create_dir(&folder)?;
    Ok(folder)
}

async fn blocking<T: Send + 'static>(
    body: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(body).await?
}

/// Puts an image on a node, by its `ctr`.
pub async fn unpack(mut ctr: Command, image: &Image) -> anyhow::Result<()> {
    ctr.args(["-n", "k8s.io", "images", "import"]);
    ctr.arg(&image.archive);
    process::run(ctr, "", PATIENCE).await?.success().map(drop)
}
