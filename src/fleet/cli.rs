//! `seawall fleet`: what a person does to the fleet from a shell, over the operator's admin socket.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::admin::client::AdminClient;
use super::admin::{DEFAULT_SOCKET, JoinTokenRequest, Tagging};
use super::tables::{detail_lines, device_table, joined, token_table};
use crate::domain::names::DeviceId;

#[derive(Debug, Args)]
pub struct FleetArgs {
    /// The operator's admin socket.
    #[arg(long, global = true, default_value = DEFAULT_SOCKET, env = "SEAWALL_ADMIN_SOCKET")]
    socket: PathBuf,
    /// Print JSON rather than a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: FleetCommand,
}

#[derive(Debug, Subcommand)]
enum FleetCommand {
    /// The devices that are enrolled.
    List {
        /// Those of one namespace.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// One device, and what is in force on it.
    Show { device: DeviceId },
    /// Change a device's tags: `k=v` sets one, `k-` removes it.
    Tag {
        device: DeviceId,
        #[arg(required = true, value_parser = tag_edit)]
        changes: Vec<TagEdit>,
    },
    /// Take a device out of the fleet for good. Its certificate counts no more, at once. Its host keeps the rules that it has, with the agent stopped
    /// too, until the agent is stopped and the table deleted there: `nft delete table inet seawall`.
    Revoke {
        device: DeviceId,
        /// Also a device that is isolated: its peers let it in again.
        #[arg(long)]
        release: bool,
    },
    /// Let a node of the cluster enrol again that was revoked: its agent does so by itself then.
    Readmit {
        /// The node's name.
        node: String,
    },
    /// Tokens with which devices enrol.
    JoinToken {
        #[command(subcommand)]
        command: JoinTokenCommand,
    },
    /// Go on in a later epoch: only after the operator's store was restored from a backup, when
    /// devices say that they are ahead of it.
    AdvanceEpoch {
        /// The epoch that the refused devices are at.
        beyond: u64,
    },
}

#[derive(Debug, Subcommand)]
enum JoinTokenCommand {
    /// Make a token. It is printed this once.
    Create {
        /// The namespace that devices enrolling with it belong to.
        #[arg(long)]
        tenant: String,
        /// `k=v`: a tag that devices enrolling with it get; repeatable.
        #[arg(long = "tag", value_parser = tag)]
        tags: Vec<(String, String)>,
        /// How many devices may enrol with it.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// How long it is good for, such as 30m, 1h or 7d.
        #[arg(long, default_value = "1h", value_parser = ttl)]
        ttl: u64,
    },
    /// The tokens there are, newest first, without their secrets.
    List {
        /// Those of one namespace.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// End a token. Devices that enrolled with it stay.
    Revoke { id: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TagEdit {
    Set(String, String),
    Remove(String),
}

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write a tag as key=value".to_owned()),
    }
}

fn tag_edit(text: &str) -> Result<TagEdit, String> {
    if let Ok((key, value)) = tag(text) {
        return Ok(TagEdit::Set(key, value));
    }
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() => Ok(TagEdit::Remove(key.to_owned())),
        _ => Err("write key=value to set a tag, or key- to remove it".to_owned()),
    }
}

/// Seconds.
fn ttl(text: &str) -> Result<u64, String> {
    let days = text
        .strip_suffix('d')
        .and_then(|days| days.parse::<u64>().ok());
    let seconds = match days {
        Some(days) => days.checked_mul(24 * 60 * 60),
        None => text
            .parse::<SignedDuration>()
            .ok()
            .and_then(|ttl| u64::try_from(ttl.as_secs()).ok()),
    };
    seconds
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "write a time such as 30m, 1h or 7d".to_owned())
}

pub fn run(args: &FleetArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(answer(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn answer(args: &FleetArgs) -> anyhow::Result<()> {
    let client = AdminClient::new(&args.socket)?;
    match &args.command {
        FleetCommand::List { tenant } => {
            let devices = client.devices(tenant.as_deref()).await?;
            print(args.json, &devices, |devices| device_table(devices))
        }
        FleetCommand::Show { device } => {
            let detail = client.device(device).await?;
            print(args.json, &detail, detail_lines)
        }
        FleetCommand::Tag { device, changes } => {
            let tags = client.tag(device, &tagging(changes)).await?;
            print(args.json, &tags, |tags| format!("{}\n", joined(tags)))
        }
        FleetCommand::Revoke { device, release } => {
            client.revoke(device, *release).await?;
            println!("{device} is revoked");
            Ok(())
        }
        FleetCommand::Readmit { node } => {
            let device = client.readmit(node).await?;
            print(args.json, &device, |device| {
                format!("{node} may enrol again, as {device}\n")
            })
        }
        FleetCommand::JoinToken { command } => join_token(args.json, &client, command).await,
        FleetCommand::AdvanceEpoch { beyond } => {
            let epoch = client.advance_epoch(*beyond).await?;
            print(args.json, &epoch, |e| format!("the epoch is {}\n", e.epoch))
        }
    }
}

async fn join_token(
    json: bool,
    client: &AdminClient,
    command: &JoinTokenCommand,
) -> anyhow::Result<()> {
    match command {
        JoinTokenCommand::Create {
            tenant,
            tags,
            uses,
            ttl,
        } => {
            let new = JoinTokenRequest {
                tenant: tenant.clone(),
                tags: tags.iter().cloned().collect(),
                uses: *uses,
                ttl_seconds: *ttl,
            };
            let new = client.create_join_token(&new).await?;
            if !json {
                eprintln!(
                    "{} is good for {} until {}. It is shown this once:",
                    new.view.id,
                    devices(new.view.uses_left),
                    new.view.expires_at
                );
            }
            print(json, &new, |new| format!("{}\n", new.token))
        }
        JoinTokenCommand::List { tenant } => {
            let tokens = client.join_tokens(tenant.as_deref()).await?;
            print(json, &tokens, |tokens| {
                token_table(tokens, Timestamp::now())
            })
        }
        JoinTokenCommand::Revoke { id } => {
            client.revoke_join_token(id).await?;
            println!("{id} is revoked");
            Ok(())
        }
    }
}

fn devices(count: u32) -> String {
    match count {
        1 => "one device".to_owned(),
        many => format!("{many} devices"),
    }
}

fn print<T: serde::Serialize>(
    json: bool,
    answer: &T,
    words: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    use std::io::Write;
    let text = match json {
        true => serde_json::to_string_pretty(answer)? + "\n",
        false => words(answer),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Who reads it has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn tagging(changes: &[TagEdit]) -> Tagging {
    let mut tagging = Tagging::default();
    for change in changes {
        match change {
            TagEdit::Set(key, value) => {
                tagging.set.insert(key.clone(), value.clone());
            }
            TagEdit::Remove(key) => {
                tagging.remove.insert(key.clone());
            }
        }
    }
    tagging
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_set_and_removed_as_kubectl_does_it() {
        let edits = ["a=b", "a=b=c", "empty=", "gone-"].map(|text| tag_edit(text).unwrap());
        let set = |k: &str, v: &str| TagEdit::Set(k.to_owned(), v.to_owned());
        let expected = [
            set("a", "b"),
            set("a", "b=c"),
            set("empty", ""),
            TagEdit::Remove("gone".to_owned()),
        ];
        assert_eq!(edits, expected);
        for wrong in ["", "=", "=v", "-", "bare"] {
            assert!(tag_edit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_life_is_written_in_minutes_hours_or_days() {
        assert_eq!(ttl("30m"), Ok(1800));
        assert_eq!(ttl("1h"), Ok(3600));
        assert_eq!(ttl("7d"), Ok(604_800));
        for wrong in ["", "0s", "-1h", "1", "soon", "99999999999999999999d"] {
            assert!(ttl(wrong).is_err(), "{wrong}");
        }
    }
}
