//! One host: a network namespace, in which programs are started and sockets made.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::link::Attachment;
use crate::process::{self, Outcome};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// A handle; the namespace goes when the last is dropped.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    namespace: Namespace,
}

enum Namespace {
    /// Made by the lab, on its bridge.
    Attached(Attachment),
    /// Made by somebody else, and held for as long as there is a handle.
    Foreign(File),
}

impl Host {
    pub(super) fn attach(name: &str, attachment: Attachment) -> anyhow::Result<Self> {
        attachment.make()?;
        // From here on, dropping it removes what was made.
        let host = Self(Arc::new(Inner {
            name: name.to_owned(),
            v4: attachment.v4,
            v6: attachment.v6,
            namespace: Namespace::Attached(attachment),
        }));
        host.configure()?;
        Ok(host)
    }

    /// A network namespace that somebody else made and keeps, such as a pod's, with its addresses there.
    pub fn foreign(
        name: &str,
        namespace: &Path,
        v4: Ipv4Addr,
        v6: Ipv6Addr,
    ) -> anyhow::Result<Self> {
        let file = File::open(namespace)
            .with_context(|| format!("the namespace of {name}: {}", namespace.display()))?;
        let host = Self(Arc::new(Inner {
            name: name.to_owned(),
            v4,
            v6,
            namespace: Namespace::Foreign(file),
        }));
        host.allow_echo_requests()?;
        Ok(host)
    }

    /// What a reboot leaves of a host's network: its addresses. Everything else is new, so what ran on the
    /// host has to be ended before.
    pub fn renew(&self) -> anyhow::Result<()> {
        let Namespace::Attached(attachment) = &self.0.namespace else {
            anyhow::bail!("{} is not a host of the lab's own", self.name());
        };
        attachment.remove()?;
        attachment.make()?;
        self.configure()
    }

    fn configure(&self) -> anyhow::Result<()> {
        self.inside_now(|| {
            for (file, value) in [
                // An address can be used at once, the link-local one too.
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/eth0/accept_dad", "0"),
            ] {
                std::fs::write(format!("/proc/sys/net/{file}"), value)?;
            }
            anyhow::Ok(())
        })??;
        self.allow_echo_requests()?;
        match &self.0.namespace {
            Namespace::Attached(attachment) => attachment.configure(),
            Namespace::Foreign(_) => Ok(()),
        }
    }

    /// Without a raw socket.
    fn allow_echo_requests(&self) -> anyhow::Result<()> {
        self.inside_now(|| std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0"))??;
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What `ip netns` calls it, if the lab has made it.
    pub fn namespace_name(&self) -> Option<&str> {
        match &self.0.namespace {
            Namespace::Attached(attachment) => Some(&attachment.namespace),
            Namespace::Foreign(_) => None,
        }
    }

    pub fn v4(&self) -> Ipv4Addr {
        self.0.v4
    }

    pub fn v6(&self) -> Ipv6Addr {
        self.0.v6
    }

    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4().into(),
            Family::V6 => self.v6().into(),
        }
    }

    /// A command that runs on the host; its pid is the program's own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace_file()))
            .arg("--")
            .arg(program);
        command
    }

    /// The same as another user, which takes a sandbox that has others.
    pub fn command_as(&self, uid: u32, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace_file()))
            .args([format!("--setuid={uid}"), format!("--setgid={uid}")])
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a program on the host to its end, with `input`.
    pub async fn run(&self, program: &str, args: &[&str], input: &str) -> anyhow::Result<Outcome> {
        let mut command = self.command(program);
        command.args(args);
        process::run(command, input, Duration::from_secs(30)).await
    }

    /// Loads an nftables script on the host.
    pub async fn nft(&self, script: &str) -> anyhow::Result<String> {
        self.run("nft", &["-f", "-"], script).await?.success()
    }

    /// Runs `body` on a thread in the host's namespace. Sockets that it makes stay there, wherever they
    /// are used afterwards.
    pub async fn inside<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (send, receive) = oneshot::channel();
        let host = self.clone();
        // A thread of its own, since its namespace is changed for good.
        std::thread::spawn(move || {
            let outcome = host.enter().map(|()| body());
            // Nobody waits any more when the test has ended.
            let _ = send.send(outcome);
        });
        receive
            .await
            .context("the thread in the namespace panicked")?
    }

    /// The same, waiting without a runtime.
    fn inside_now<T: Send>(&self, body: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().map(|()| body()));
            thread.join().expect("the body doesn't panic")
        })
    }

    fn enter(&self) -> anyhow::Result<()> {
        let file = File::open(self.namespace_file())?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", self.name()))
    }

    /// What `ip netns` calls the namespace of a host that the lab has made.
    pub(super) fn namespace(&self) -> &str {
        self.namespace_name().expect("the lab has made it")
    }

    /// A name for the namespace that this process and its children can open.
    fn namespace_file(&self) -> String {
        match &self.0.namespace {
            Namespace::Attached(attachment) => format!("/run/netns/{}", attachment.namespace),
            Namespace::Foreign(file) => {
                format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Namespace::Attached(attachment) = &self.namespace {
            // It ends with the sandbox at the latest.
            let _ = attachment.remove();
        }
    }
}
