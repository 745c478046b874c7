//! That the traffic probes tell the truth: everything that is later shown about isolation rests on them.

use std::time::{Duration, Instant};

use anyhow::Context;
use libtest_mimic::Trial;

use crate::harness::case;
use crate::lab::{
    Connection, Family, Flow, Host, Lab, Reach, Responder, Transport, connect, reach,
};
use crate::{process, sandbox};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "hosts of a lab reach each other by every protocol",
            all_reach,
        ),
        case(
            "a drop of everything is seen on new and open flows alike",
            all_cut,
        ),
        case(
            "a drop of one protocol is seen on that one alone",
            each_alone,
        ),
        case("a drop of one direction is seen as a cut", one_direction),
        case(
            "a drop behind an accept of established flows is seen to leave them open",
            survives,
        ),
        case(
            "a flow whose sender has stopped doesn't pass for cut",
            stopped_sender,
        ),
        case(
            "a flow that had ended before the action doesn't pass for cut",
            ended_before,
        ),
        case(
            "a reset connection is seen as refused and a dropped one as silent",
            refused,
        ),
        case(
            "programs and sockets of a host are in its namespace",
            in_namespace,
        ),
        case("a rule by uid is seen on that user's traffic alone", by_uid)
            .with_ignored_flag(!sandbox::has_other_users()),
        case("a host that is dropped is gone from the network", host_goes),
        case("labs side by side don't see each other", labs_apart),
        case("fifty hosts with a flow each are up at once", fifty),
    ]
}

const PORT: u16 = 7000;
/// Longer than any answer in a lab takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a cut is watched.
const WATCH: Duration = Duration::from_millis(300);
const EVERY: Duration = Duration::from_millis(5);

/// A table in the place of the agent's, with these rules for what comes in and goes out.
fn table(input: &str, output: &str) -> String {
    format!(
        "table inet probe {{
            chain incoming {{ type filter hook input priority -10; policy accept; {input}; }}
            chain outgoing {{ type filter hook output priority -10; policy accept; {output}; }}
        }}"
    )
}

async fn open_all(from: &Host, to: &Host) -> anyhow::Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for transport in Transport::ALL {
        for family in Family::BOTH {
            flows.push(Flow::open(transport, family, from, to, EVERY).await?);
        }
    }
    Ok(flows)
}

async fn all_reach() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let responder = Responder::start(&server, PORT).await?;
    assert_eq!(reach(&laptop, &responder, LIMIT).await?, Reach::ALL);
    for flow in open_all(&laptop, &server).await? {
        flow.flows(LIMIT).await?;
    }
    Ok(())
}

async fn all_cut() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let responder = Responder::start(&server, PORT).await?;
    let flows = open_all(&laptop, &server).await?;

    let action = Instant::now();
    laptop.nft(&table("drop", "drop")).await?;
    let done = Instant::now();
    tokio::time::sleep(WATCH).await;
    for flow in &flows {
        let cut = flow.cut(action, done)?;
        assert!(cut.latency <= done - action + LIMIT, "{cut:?}");
        assert!(cut.packets > 0, "{cut:?}");
    }
    assert_eq!(reach(&laptop, &responder, LIMIT).await?, Reach::NONE);

    laptop.nft("delete table inet probe").await?;
    for flow in &flows {
        flow.flows(Duration::from_secs(5)).await?;
    }
    assert_eq!(reach(&laptop, &responder, LIMIT).await?, Reach::ALL);
    Ok(())
}

async fn each_alone() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let responder = Responder::start(&server, PORT).await?;
    for (rule, expected) in [
        (
            "meta nfproto ipv4 meta l4proto tcp",
            Reach {
                tcp4: false,
                ..Reach::ALL
            },
        ),
        (
            "meta nfproto ipv6 meta l4proto tcp",
            Reach {
                tcp6: false,
                ..Reach::ALL
            },
        ),
        (
            "meta nfproto ipv4 meta l4proto udp",
            Reach {
                udp4: false,
                ..Reach::ALL
            },
        ),
        (
            "meta nfproto ipv6 meta l4proto udp",
            Reach {
                udp6: false,
                ..Reach::ALL
            },
        ),
        (
            "ip protocol icmp",
            Reach {
                icmp4: false,
                ..Reach::ALL
            },
        ),
        (
            "icmpv6 type echo-request",
            Reach {
                icmp6: false,
                ..Reach::ALL
            },
        ),
    ] {
        server
            .nft(&table(&format!("{rule} drop"), "accept"))
            .await?;
        assert_eq!(reach(&laptop, &responder, LIMIT).await?, expected, "{rule}");
        server.nft("delete table inet probe").await?;
    }
    Ok(())
}

async fn one_direction() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let flow = Flow::open(Transport::Udp, Family::V6, &laptop, &server, EVERY).await?;
    let action = Instant::now();
    let to_server = format!("ip6 daddr {} drop", server.v6());
    laptop.nft(&table("accept", &to_server)).await?;
    let done = Instant::now();
    tokio::time::sleep(WATCH).await;
    let [there, back] = flow.records() else {
        anyhow::bail!("datagrams have two directions");
    };
    there.cut(action, done)?;
    assert!(there.last_received_at().context("it flowed")? < done + LIMIT);
    let error = back.cut(action, done).err().context("back it flows")?;
    assert!(error.to_string().contains("packets passed"), "{error}");
    assert!(flow.cut(action, done).is_err(), "half a cut is none");
    Ok(())
}

async fn survives() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    // Connection tracking begins with the first rule that asks for it.
    let accept = "ct state established accept";
    server.nft(&table(accept, accept)).await?;
    let responder = Responder::start(&server, PORT).await?;
    let flow = Flow::open(Transport::Tcp, Family::V4, &laptop, &server, EVERY).await?;
    let action = Instant::now();
    let script = "add rule inet probe incoming drop; add rule inet probe outgoing drop";
    server.nft(script).await?;
    let done = Instant::now();
    tokio::time::sleep(WATCH).await;
    let error = flow.cut(action, done).err().context("it survives")?;
    assert!(error.to_string().contains("packets passed"), "{error}");
    let fresh = connect(&laptop, responder.address(Family::V4), LIMIT).await?;
    assert_eq!(fresh, Connection::Silent);
    Ok(())
}

async fn stopped_sender() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    for family in Family::BOTH {
        let mut flow = Flow::open(Transport::Udp, family, &laptop, &server, EVERY).await?;
        let action = Instant::now();
        flow.stop().await;
        let done = Instant::now();
        tokio::time::sleep(WATCH).await;
        let error = flow.cut(action, done).err().context("nothing was tried")?;
        assert!(error.to_string().contains("nothing was sent"), "{error}");
        assert!(flow.flows(WATCH).await.is_err());
    }
    Ok(())
}

async fn ended_before() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let mut flow = Flow::open(Transport::Tcp, Family::V4, &laptop, &server, EVERY).await?;
    flow.stop().await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let action = Instant::now();
    let error = flow.cut(action, action).err().context("it was dead")?;
    assert!(error.to_string().contains("did not flow"), "{error}");
    Ok(())
}

async fn refused() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    for family in Family::BOTH {
        let nobody = std::net::SocketAddr::new(server.address(family), PORT);
        assert_eq!(connect(&laptop, nobody, LIMIT).await?, Connection::Refused);
    }
    server.nft(&table("tcp dport 7000 drop", "accept")).await?;
    for family in Family::BOTH {
        let nobody = std::net::SocketAddr::new(server.address(family), PORT);
        assert_eq!(connect(&laptop, nobody, LIMIT).await?, Connection::Silent);
    }
    Ok(())
}

async fn in_namespace() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let outcome = laptop
        .run("ip", &["-brief", "addr", "show", "eth0"], "")
        .await?;
    let shown = outcome.success()?;
    assert!(shown.contains(&laptop.v4().to_string()), "{shown}");
    assert!(shown.contains(&laptop.v6().to_string()), "{shown}");
    assert!(!shown.contains(&server.v4().to_string()), "{shown}");

    // What runs in the sandbox's own namespace is reached by the gateway.
    let outside = tokio::net::TcpListener::bind((lab.gateway4(), 0)).await?;
    let (address, limit) = (outside.local_addr()?, LIMIT);
    let connected = laptop
        .inside(move || std::net::TcpStream::connect_timeout(&address, limit).is_ok())
        .await?;
    assert!(connected);
    let six = tokio::net::TcpListener::bind((lab.gateway6(), 0)).await?;
    let address = six.local_addr()?;
    let connected = laptop
        .inside(move || std::net::TcpStream::connect_timeout(&address, limit).is_ok())
        .await?;
    assert!(connected);
    Ok(())
}

async fn by_uid() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let responder = Responder::start(&server, PORT).await?;
    let address = responder.address(Family::V4);
    laptop.nft(&table("accept", "meta skuid 1000 drop")).await?;
    for (uid, passes) in [(0, true), (1000, false), (1001, true)] {
        let mut command = laptop.command_as(uid, "timeout");
        let connect = format!(": > /dev/tcp/{}/{}", address.ip(), address.port());
        command.args(["0.8", "bash", "-c", &connect]);
        let outcome = process::run(command, "", Duration::from_secs(10)).await?;
        assert_eq!(outcome.status.success(), passes, "uid {uid}: {outcome:?}");
    }
    Ok(())
}

async fn host_goes() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let responder = Responder::start(&server, PORT).await?;
    assert_eq!(reach(&laptop, &responder, LIMIT).await?, Reach::ALL);
    let address = responder.address(Family::V4);
    drop((responder, server));
    // The responder's tasks hold sockets until they are gone.
    assert_eq!(connect(&laptop, address, LIMIT).await?, Connection::Silent);
    lab.host("server")?;
    Ok(())
}

async fn labs_apart() -> anyhow::Result<()> {
    let (one, two) = (Lab::new()?, Lab::new()?);
    let (laptop, server) = (one.host("same-name")?, two.host("same-name")?);
    let responder = Responder::start(&server, PORT).await?;
    assert_eq!(reach(&laptop, &responder, LIMIT).await?, Reach::NONE);
    Ok(())
}

async fn fifty() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let server = lab.host("server")?;
    let mut flows = Vec::new();
    for number in 0..50 {
        let host = lab.host(&format!("h{number}"))?;
        let every = Duration::from_millis(50);
        flows.push(Flow::open(Transport::Tcp, Family::V6, &host, &server, every).await?);
    }
    for flow in &flows {
        flow.flows(Duration::from_secs(2)).await?;
    }
    Ok(())
}
