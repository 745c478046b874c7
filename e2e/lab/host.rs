//! One host: a network namespace, in which programs are started and sockets made.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
    attachment: Attachment,
}

impl Host {
    pub(super) fn attach(name: &str, attachment: Attachment) -> anyhow::Result<Self> {
        attachment.make()?;
        // From here on, dropping it removes what was made.
        let host = Self(Arc::new(Inner {
            name: name.to_owned(),
            attachment,
        }));
        host.inside_now(|| {
            for (file, value) in [
                // An address can be used at once, the link-local one too.
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/eth0/accept_dad", "0"),
                // Echo requests without a raw socket.
                ("ipv4/ping_group_range", "0 0"),
            ] {
                std::fs::write(format!("/proc/sys/net/{file}"), value)?;
            }
            anyhow::Ok(())
        })??;
        host.0.attachment.configure()?;
        Ok(host)
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub fn v4(&self) -> Ipv4Addr {
        self.0.attachment.v4
    }

    pub fn v6(&self) -> Ipv6Addr {
        self.0.attachment.v6
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

    pub(super) fn namespace(&self) -> &str {
        &self.0.attachment.namespace
    }

    fn namespace_file(&self) -> String {
        format!("/run/netns/{}", self.0.attachment.namespace)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // It ends with the sandbox at the latest.
        let _ = self.attachment.remove();
    }
}
