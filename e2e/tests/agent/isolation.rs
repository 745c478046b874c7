//! Isolation and quarantine, shown with packets.

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind,
    connect as connect_socket, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use seawall::domain::enforcement::DeviceState;

use super::{EVERY, LIMIT, MANAGEMENT_PORT, PORT, WATCH, all_flow, open_all};
use crate::fleet::{Applied, Operator, isolated, peer_of};
use crate::harness::{case, eventually};
use crate::lab::{
    Connection, Family, Flow, Host, Lab, Reach, Responder, Transport, connect, reach,
};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an isolated device loses every open connection and keeps management and the operator",
            cuts_everything,
        ),
        case(
            "peers drop an isolated device whose own table is gone, and management keeps its path",
            peers_drop,
        ),
        case(
            "what the isolated device had opened to management is cut though management may open anything",
            opened_from_inside,
        ),
        case(
            "an isolated device can't open connections from the ports that management reaches",
            no_way_out,
        ),
        case("an isolated device forwards for nobody", forwards_nothing),
        case(
            "an application on an isolated device sees the end of its connection at once",
            application_sees_the_end,
        ),
        case(
            "a quarantined host is nobody's router, and neither is an isolated one, which still hears others",
            no_router,
        ),
    ]
}

/// Every flow is cut by what was applied, and nothing passes afterwards.
async fn all_cut(flows: &[Flow], applied: Applied) -> anyhow::Result<()> {
    tokio::time::sleep(WATCH).await;
    for flow in flows {
        let cut = flow.cut(applied.action, applied.done)?;
        assert!(cut.packets > 0, "{cut:?}");
    }
    Ok(())
}

async fn cuts_everything() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server, admin) = (lab.host("laptop")?, lab.host("server")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let services = Responder::start(&laptop, PORT).await?;
    let management = Responder::start(&laptop, MANAGEMENT_PORT).await?;
    let outside = Responder::start(&server, PORT).await?;

    let mut flows = open_all(&laptop, &server).await?;
    flows.extend(open_all(&server, &laptop).await?);
    flows.extend(open_all(&laptop, &admin).await?);
    let elsewhere = open_all(&admin, &server).await?;

    let applied = operator
        .apply(&agent, isolated(&admin, &[MANAGEMENT_PORT])?)
        .await?;
    all_cut(&flows, applied).await?;
    assert!(
        applied.connections_cut >= flows.len() as u64,
        "{applied:?} of {}",
        flows.len()
    );

    assert_eq!(reach(&laptop, &outside, LIMIT).await?, Reach::NONE);
    assert_eq!(reach(&server, &services, LIMIT).await?, Reach::NONE);
    assert_eq!(reach(&server, &management, LIMIT).await?, Reach::NONE);
    for family in Family::BOTH {
        let managed = connect(&admin, management.address(family), LIMIT).await?;
        assert_eq!(managed, Connection::Answered, "{family:?}");
        let other_port = connect(&admin, services.address(family), LIMIT).await?;
        assert_eq!(other_port, Connection::Silent, "{family:?}");
    }
    all_flow(&elsewhere).await?;
    // The stream to the operator is one of those that stay.
    let found = operator.read_back(&agent).await?;
    assert!(found.matches, "{}", found.detail);

    operator.apply(&agent, DeviceState::default()).await?;
    assert_eq!(reach(&laptop, &outside, LIMIT).await?, Reach::ALL);
    assert_eq!(reach(&server, &services, LIMIT).await?, Reach::ALL);
    Ok(())
}

async fn peers_drop() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server, admin) = (lab.host("laptop")?, lab.host("server")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let (on_server, on_admin) = tokio::try_join!(operator.agent(&server), operator.agent(&admin))?;
    // No agent on the laptop: whoever took it over removed it.
    let management = Responder::start(&laptop, MANAGEMENT_PORT).await?;
    let on_laptop = Responder::start(&laptop, PORT).await?;
    let outside = Responder::start(&server, PORT).await?;
    let console = Responder::start(&admin, PORT).await?;

    let mut flows = open_all(&laptop, &server).await?;
    flows.extend(open_all(&server, &laptop).await?);
    let from_laptop = open_all(&laptop, &admin).await?;
    let others = open_all(&admin, &server).await?;

    let isolation = isolated(&admin, &[MANAGEMENT_PORT])?.isolation;
    let state = peer_of(&laptop, isolation.as_ref(), &server)?;
    let applied = operator.apply(&on_server, state).await?;
    all_cut(&flows, applied).await?;
    let state = peer_of(&laptop, isolation.as_ref(), &admin)?;
    let applied = operator.apply(&on_admin, state).await?;
    all_cut(&from_laptop, applied).await?;

    assert_eq!(reach(&laptop, &outside, LIMIT).await?, Reach::NONE);
    assert_eq!(reach(&server, &on_laptop, LIMIT).await?, Reach::NONE);
    assert_eq!(reach(&laptop, &console, LIMIT).await?, Reach::NONE);
    for family in Family::BOTH {
        let managed = connect(&admin, management.address(family), LIMIT).await?;
        assert_eq!(managed, Connection::Answered, "{family:?}");
        let other_port = connect(&admin, on_laptop.address(family), LIMIT).await?;
        assert_eq!(other_port, Connection::Silent, "{family:?}");
    }
    all_flow(&others).await
}

/// A conntrack entry that were deleted here would be learnt anew by the next packet from management, as
/// a connection that management opened.
async fn opened_from_inside() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, admin) = (lab.host("laptop")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let from_inside = open_all(&laptop, &admin).await?;
    let from_management = open_all(&admin, &laptop).await?;
    let applied = operator.apply(&agent, isolated(&admin, &[])?).await?;
    // Management's own datagrams may come in as what management opens; what must not pass is anything
    // that the device sends.
    tokio::time::sleep(WATCH).await;
    for flow in &from_inside {
        flow.records()[0].cut(applied.action, applied.done)?;
    }
    all_flow(&from_management).await
}

async fn no_way_out() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, admin) = (lab.host("laptop")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let console = Responder::start(&admin, PORT).await?;
    let target = console.address(Family::V4);
    assert!(
        connects_from(&laptop, MANAGEMENT_PORT, target).await?,
        "it can while nothing is in force"
    );
    let state = isolated(&admin, &[MANAGEMENT_PORT + 1])?;
    operator.apply(&agent, state).await?;
    assert!(!connects_from(&laptop, MANAGEMENT_PORT + 1, target).await?);
    operator.apply(&agent, isolated(&admin, &[])?).await?;
    assert_eq!(reach(&laptop, &console, LIMIT).await?, Reach::NONE);
    Ok(())
}

/// Whether the host can open a TCP connection from this port of its own.
async fn connects_from(host: &Host, port: u16, to: SocketAddr) -> anyhow::Result<bool> {
    let from = host.v4();
    let attempt = move || -> anyhow::Result<bool> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let limit = TimeVal::new(
            i64::try_from(LIMIT.as_secs())?,
            LIMIT.subsec_micros().into(),
        );
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        let own = SockaddrIn::from(std::net::SocketAddrV4::new(from, port));
        bind(socket.as_raw_fd(), &own)?;
        let IpAddr::V4(ip) = to.ip() else {
            anyhow::bail!("an IPv4 address");
        };
        let peer = SockaddrIn::from(std::net::SocketAddrV4::new(ip, to.port()));
        Ok(connect_socket(socket.as_raw_fd(), &peer).is_ok())
    };
    host.inside(attempt).await?
}

async fn forwards_nothing() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, router, server) = (
        lab.host("laptop")?,
        lab.host("router")?,
        lab.host("server")?,
    );
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&router).await?;
    for (host, settings) in [
        (
            &router,
            &["net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1"][..],
        ),
        (&laptop, &["net/ipv4/conf/all/accept_redirects=0"][..]),
        (&server, &["net/ipv4/conf/all/accept_redirects=0"][..]),
    ] {
        for setting in settings {
            host.run("sysctl", &["-qw", setting], "").await?.success()?;
        }
    }
    router
        .run("sysctl", &["-qw", "net/ipv4/conf/all/send_redirects=0"], "")
        .await?
        .success()?;
    router
        .run(
            "sysctl",
            &["-qw", "net/ipv4/conf/eth0/send_redirects=0"],
            "",
        )
        .await?
        .success()?;
    for (host, other) in [(&laptop, &server), (&server, &laptop)] {
        let (to, via) = (other.v4().to_string(), router.v4().to_string());
        host.run("ip", &["route", "add", &to, "via", &via], "")
            .await?
            .success()?;
    }
    let through = Flow::open(Transport::Tcp, Family::V4, &laptop, &server, EVERY).await?;
    let applied = operator.apply(&agent, isolated(&laptop, &[])?).await?;
    all_cut(&[through], applied).await?;

    operator.apply(&agent, DeviceState::default()).await?;
    let through = Flow::open(Transport::Udp, Family::V4, &laptop, &server, EVERY).await?;
    // And nothing of a quarantined host passes a router that is well.
    let state = peer_of(&laptop, None, &router)?;
    let applied = operator.apply(&agent, state).await?;
    all_cut(&[through], applied).await
}

/// Where the kernel can destroy sockets, which those that the tests run on can.
async fn application_sees_the_end() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server, admin) = (lab.host("laptop")?, lab.host("server")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let outside = Responder::start(&server, PORT).await?;
    let to = outside.address(Family::V6);
    let stream = laptop
        .inside(move || std::net::TcpStream::connect_timeout(&to, LIMIT))
        .await??;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut stream = stream;
        (stream.read(&mut [0]), Instant::now())
    });
    let applied = operator
        .apply(&agent, isolated(&admin, &[MANAGEMENT_PORT])?)
        .await?;
    let (end, at) = reading.await?;
    let error = end.expect_err("nothing was there to be read");
    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
    assert!(at < applied.done + LIMIT, "{:?}", at - applied.action);
    Ok(())
}

async fn no_router() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, router, server) = (
        lab.host("laptop")?,
        lab.host("router")?,
        lab.host("server")?,
    );
    let (by_laptop, by_router) = (link_local(&laptop).await?, link_local(&router).await?);
    let listens = "net.ipv6.conf.eth0.accept_ra=2";
    server
        .run("sysctl", &["-qw", listens], "")
        .await?
        .success()?;
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&server).await?;
    advertise(&laptop).await?;
    learns(&server, by_laptop).await?;
    forget(&server).await?;

    let mut state = peer_of(&laptop, None, &server)?;
    state.quarantined.insert(by_laptop.into());
    operator.apply(&agent, state).await?;
    advertise(&laptop).await?;
    // What comes later and is learned shows that what came before was not.
    advertise(&router).await?;
    learns(&server, by_router).await?;
    let learned = learned(&server).await?;
    assert!(!learned.contains(&by_laptop.to_string()), "{learned}");

    forget(&server).await?;
    operator.apply(&agent, isolated(&laptop, &[])?).await?;
    advertise(&router).await?;
    learns(&server, by_router).await?;
    let refused = advertise(&server).await;
    let refused = refused.expect_err("an isolated host advertises nothing");
    let kind = refused.downcast_ref::<nix::errno::Errno>();
    assert_eq!(kind, Some(&nix::errno::Errno::EPERM), "{refused:#}");
    Ok(())
}

/// The address of its interface with which a host does neighbour discovery.
pub async fn link_local(host: &Host) -> anyhow::Result<Ipv6Addr> {
    let show = ["-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"];
    let said = host.run("ip", &show, "").await?.success()?;
    let mut words = said.split_whitespace().skip_while(|word| *word != "inet6");
    let address = words.nth(1).and_then(|with_length| {
        let (address, _) = with_length.split_once('/')?;
        address.parse().ok()
    });
    address.ok_or_else(|| anyhow::anyhow!("no link-local address: {said}"))
}

/// The host says to all others on its link that it is a router, for half an hour.
async fn advertise(host: &Host) -> anyhow::Result<()> {
    let send = || -> anyhow::Result<()> {
        let socket = socket(
            AddressFamily::Inet6,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::IcmpV6,
        )?;
        setsockopt(&socket, sockopt::Ipv6MulticastHops, &255)?;
        // RFC 4861, 4.2; the kernel fills in the checksum.
        let [high, low] = 1800u16.to_be_bytes();
        let message = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let interface = if_nametoindex("eth0")?;
        let to = SockaddrIn6::from(std::net::SocketAddrV6::new(all_nodes, 0, 0, interface));
        sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())?;
        Ok(())
    };
    host.inside(send).await?
}

/// The routes that it has from advertisements.
async fn learned(host: &Host) -> anyhow::Result<String> {
    let show = ["-6", "route", "show", "proto", "ra"];
    host.run("ip", &show, "").await?.success()
}

async fn learns(host: &Host, router: Ipv6Addr) -> anyhow::Result<()> {
    let what = format!("{} to learn of {router}", host.name());
    eventually(&what, Duration::from_secs(10), || async {
        let routes = learned(host).await?;
        Ok(routes.contains(&format!("via {router} ")).then_some(()))
    })
    .await
}

async fn forget(host: &Host) -> anyhow::Result<()> {
    let flush = ["-6", "route", "flush", "proto", "ra"];
    host.run("ip", &flush, "").await?.success()?;
    Ok(())
}
