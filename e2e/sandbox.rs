//! The namespaces that everything real runs in: user, network, mount and process namespaces of its own,
//! made by `unshare`.
//!
//! An ordinary user has one uid inside, root's. Root has all of them, so rules by uid can be tried too,
//! and no user namespace where it can do without: a kubelet works in none.
//!
//! Nothing outlives it: the sandbox's first process ends when the process outside does, however that
//! dies, and the kernel then kills all that is left inside.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Which of its lives this process is in. See the module of `main`.
pub enum Stage {
    Outside,
    Init,
    Inside,
    /// The first process of a cluster's node.
    Node,
}

pub const STAGE: &str = "SEAWALL_E2E_STAGE";
/// The value of `STAGE` for a node's first process.
pub const NODE: &str = "node";

/// What ends with the parent: the inner processes' chance to stop by themselves.
const GRACE: Duration = Duration::from_secs(5);

const NAMESPACES: &str = "unshare -n -m -p -f --kill-child --mount-proc";

/// How the namespaces are entered, as a shell says it. What follows is run inside.
#[derive(Clone, Copy)]
enum Entry {
    /// The one uid of who runs this becomes root inside.
    OneUser,
    /// Ids stay what they are. The maps are written from outside, and `go` is said when they are.
    AllUsers,
    NoUserNamespace,
}

impl Entry {
    fn script(self) -> String {
        match self {
            Self::OneUser => format!("exec {NAMESPACES} -U -r -- \"$@\""),
            Self::AllUsers => {
                // The second shell gains root's capabilities in the namespace when it starts another
                // program, which is only after its uid has been mapped.
                format!("exec unshare -U -- sh -c 'read go; exec {NAMESPACES} -- \"$@\"' sh \"$@\"")
            }
            Self::NoUserNamespace => format!("exec {NAMESPACES} -- \"$@\""),
        }
    }

    /// Starts a program inside. Its standard input is a pipe from here.
    fn spawn(self, program: &Path, args: &[OsString], env: &Environment) -> anyhow::Result<Child> {
        let mut child = Command::new("sh")
            .args(["-c", &self.script(), "sh"])
            .arg(program)
            .args(args)
            .envs(env.iter().cloned())
            .stdin(Stdio::piped())
            .spawn()?;
        if let Self::AllUsers = self
            && let Err(error) = map_all_users(&mut child)
        {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
        Ok(child)
    }

    fn works(self) -> anyhow::Result<bool> {
        let mut child = match self.spawn("/bin/true".as_ref(), &[], &Vec::new()) {
            Ok(child) => child,
            Err(_) => return Ok(false),
        };
        Ok(child.wait()?.success())
    }

    /// The first that this machine allows.
    fn find() -> anyhow::Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            ensure!(
                Self::OneUser.works()?,
                "user namespaces are blocked here: e2e/preflight.sh names the settings; or run as root"
            );
            return Ok(Self::OneUser);
        }
        for entry in [Self::NoUserNamespace, Self::AllUsers] {
            if entry.works()? {
                return Ok(entry);
            }
        }
        bail!(
            "namespaces are blocked here, even for root: CAP_SYS_ADMIN and CAP_NET_ADMIN are needed"
        )
    }
}

type Environment = Vec<(String, String)>;

/// Waits until the child is in a user namespace of its own, maps all ids into it and lets it go on.
fn map_all_users(child: &mut Child) -> anyhow::Result<()> {
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let ours = fs::read_link("/proc/self/ns/user")?;
    let deadline = Instant::now() + GRACE;
    while fs::read_link(process.join("ns/user"))? == ours {
        ensure!(
            Instant::now() < deadline,
            "no user namespace after {GRACE:?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(process.join(map), "0 0 65536")?;
    }
    let stdin = child.stdin.as_mut().context("stdin is a pipe")?;
    Ok(stdin.write_all(b"go\n")?)
}

/// Whether processes inside can run as somebody else than root.
pub fn has_other_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace()
        .nth(2)
        .is_some_and(|count| count != "1")
}

/// Whether this is the user namespace that the machine began with, in which the kernel lets root do all.
pub fn is_initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

pub fn stage() -> Stage {
    match std::env::var(STAGE).as_deref() {
        Ok("init") => Stage::Init,
        Ok("inside") => Stage::Inside,
        Ok(NODE) => Stage::Node,
        _ => Stage::Outside,
    }
}

/// Runs this program again inside the sandbox and waits for its end.
///
/// SIGINT, SIGTERM and SIGHUP end the sandbox and are then answered by the exit code.
pub fn enter(env: &[(String, String)]) -> anyhow::Result<ExitCode> {
    let mut env = env.to_vec();
    env.push((STAGE.into(), "init".into()));
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut child = Entry::find()?
        .spawn(&std::env::current_exe()?, &args, &env)
        .context("entering the sandbox with unshare (package util-linux)")?;
    // The sandbox lives as long as this pipe is open, so it can't outlive this process.
    let lifeline = Arc::new(Mutex::new(child.stdin.take()));
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // Only after the spawn: a child inherits the mask.
    signals.thread_block()?;
    let on_signal = lifeline.clone();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            on_signal.lock().expect("nobody panics holding it").take();
        }
    });
    let status = child.wait()?;
    drop(lifeline);
    Ok(exit_code(status))
}

/// The sandbox's first process: makes the ground ready, starts the process that does the work, reaps
/// orphans, and ends when the work or the process outside ends.
pub fn init() -> anyhow::Result<ExitCode> {
    prepare("ip", &["link", "set", "lo", "up"])?;
    // The whole of /run, since /run/netns is often missing and can't be made without real root.
    prepare("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    std::fs::create_dir("/run/netns")?;

    let worker = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(STAGE, "inside")
        .stdin(Stdio::null())
        .spawn()?;
    let worker = Pid::from_raw(worker.id().try_into()?);
    std::thread::spawn(move || {
        // Nothing is ever written to it: it ends when the process outside does.
        let _ = std::io::stdin().read(&mut [0]);
        let _ = kill(worker, Signal::SIGTERM);
        std::thread::sleep(GRACE);
        std::process::exit(128 + Signal::SIGTERM as i32);
    });
    loop {
        match waitpid(None, None)? {
            WaitStatus::Exited(pid, code) if pid == worker => {
                return Ok(exit_code(ExitStatus::from_raw(code << 8)));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == worker => {
                return Ok(exit_code(ExitStatus::from_raw(signal as i32)));
            }
            _ => {}
        }
    }
}

/// Runs a program that has to succeed before anything else can.
pub fn prepare(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .args(args)
        .status()
        .with_context(|| format!("starting {program}: e2e/preflight.sh says how to install it"))?;
    ensure!(
        status.success(),
        "{program} {} failed: {status}",
        args.join(" ")
    );
    Ok(())
}

/// As a shell reports it: 128 and the signal's number for a process that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
