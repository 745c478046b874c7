//! What stands for a node's machine: network, mount and process namespaces of its own.
//!
//! When its first process ends, the kernel ends all that runs in it, containers too, and with the last of
//! them go the mounts. What is left is its control groups, which are removed by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::sys::wait::waitpid;

use super::disk::Disk;
use crate::lab::Host;
use crate::process::Daemon;
use crate::sandbox::{self, prepare};

/// Where the node's disk is on it. What is written to /var is there too; all else of /run is new at each
/// start.
pub const DISK: &str = "/run/node";

/// Tells the first process which disk is the node's.
const WHICH_DISK: &str = "SEAWALL_E2E_DISK";

/// Settings of the whole machine that a kubelet insists on. It finds them set in files that are mounted
/// over the real ones, which stay what they are.
const KERNEL_SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

const PATIENCE: Duration = Duration::from_secs(10);

/// Where the first process says that the machine is up.
const UP: &str = "/run/up";

pub struct Machine {
    first: Daemon,
    network: Host,
}

impl Machine {
    /// Starts one in the host's network namespace. Logs go to `dir`.
    pub async fn start(network: &Host, disk: &Disk, dir: &Path) -> anyhow::Result<Self> {
        let mut command = network.command("unshare");
        command
            .args(["--mount", "--propagation", "private", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "--"])
            .arg(std::env::current_exe()?)
            .env(sandbox::STAGE, sandbox::NODE)
            .env(WHICH_DISK, disk.path());
        let mut this = Self {
            first: Daemon::spawn("machine", &mut command, dir)?,
            network: network.clone(),
        };
        let deadline = Instant::now() + PATIENCE;
        while !this.path(UP).exists() {
            this.first.check()?;
            let late = || this.first.log_tail();
            ensure!(Instant::now() < deadline, "no machine yet\n{}", late());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(this)
    }

    /// A path on the machine, as it is reached from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.first.pid());
        Path::new(&root).join(inside.trim_start_matches('/'))
    }

    /// A command that runs on the machine and ends with who waits for it.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let namespaces = format!("/proc/{}/ns", self.first.pid());
        let mut command = self.network.command("nsenter");
        command
            .arg(format!("--mount={namespaces}/mnt"))
            .arg(format!("--pid={namespaces}/pid_for_children"))
            .args(["--", "setpriv", "--pdeathsig", "KILL", "--"])
            .arg(program.as_ref());
        command
    }

    /// Ends all that runs on it and waits until it has ended.
    pub async fn end(self) -> anyhow::Result<()> {
        let children = format!("/proc/{0}/task/{0}/children", self.first.pid());
        let children = fs::read_to_string(children)?;
        drop(self);
        let deadline = Instant::now() + PATIENCE;
        for child in children.split_whitespace() {
            while Path::new(&format!("/proc/{child}")).exists() {
                ensure!(Instant::now() < deadline, "process {child} is still there");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }
}

/// The machine's first process: mounts the disk and reaps. It is ended by a signal.
pub fn init() -> anyhow::Result<ExitCode> {
    let disk = std::env::var(WHICH_DISK).context("only for a node's first process")?;
    prepare("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    fs::create_dir(DISK)?;
    prepare("mount", &["--bind", &disk, DISK])?;
    write_over_var()?;
    for (name, value) in KERNEL_SETTINGS {
        let real = Path::new("/proc/sys").join(name);
        if real.exists() {
            let file = format!("/run/{}", name.replace('/', "."));
            fs::write(&file, value)?;
            let real = real.to_str().context("it is ASCII")?;
            prepare("mount", &["--bind", &file, real])?;
        }
    }
    fs::write(UP, "")?;
    loop {
        // No children, which is most of the time.
        if waitpid(None, None) == Err(Errno::ECHILD) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What is written to /var stays on the machine: plugins keep what they need at fixed places there.
fn write_over_var() -> anyhow::Result<()> {
    let [upper, work] = ["upper", "work"].map(|name| format!("{DISK}/var/{name}"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!("lowerdir=/var,upperdir={upper},workdir={work}");
    prepare("mount", &["-t", "overlay", "-o", &options, "var", "/var"])
}
