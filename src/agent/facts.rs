//! What the device says of itself: names, versions, addresses. Data for people and for peers' rules,
//! never identity.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::words::printable;
use crate::fleet::proto::Facts;

const LONGEST: usize = 253;
/// More are counted and not told: a host with a thousand addresses has other problems.
const MOST_ADDRESSES: usize = 256;

/// Every address of this network namespace's interfaces, whatever their state.
pub fn local_addresses() -> BTreeSet<IpAddr> {
    held(InterfaceFlags::empty())
}

/// The addresses by which others reach this host: of interfaces that are up, the loopback interface
/// included, since an address that routing brings here is held there; not those that every host has.
/// What an interface that is down holds is often somebody else's: a cluster's node has the addresses of
/// all Services on one.
fn reachable_addresses() -> BTreeSet<IpAddr> {
    let mut addresses = held(InterfaceFlags::IFF_UP);
    addresses.retain(|address| !address.is_loopback());
    addresses
}

/// The addresses of interfaces with these flags.
fn held(flags: InterfaceFlags) -> BTreeSet<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return BTreeSet::new();
    };
    interfaces
        .filter(|interface| interface.flags.contains(flags))
        .filter_map(|interface| {
            let address = interface.address?;
            match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
                (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
                _ => None,
            }
        })
        .collect()
}

/// Those that are told, and how many are not.
fn told(addresses: &BTreeSet<IpAddr>) -> (Vec<String>, u32) {
    let told = addresses.iter().take(MOST_ADDRESSES);
    let left_out = addresses.len().saturating_sub(MOST_ADDRESSES);
    (
        told.map(ToString::to_string).collect(),
        u32::try_from(left_out).unwrap_or(u32::MAX),
    )
}

pub fn gather() -> Facts {
    let (host_name, kernel, architecture) = match nix::sys::utsname::uname() {
        Ok(uname) => (
            text(uname.nodename()),
            text(uname.release()),
            text(uname.machine()),
        ),
        Err(_) => Default::default(),
    };
    let (addresses, addresses_left_out) = told(&reachable_addresses());
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    Facts {
        host_name,
        os: printable(&os_name(&release), LONGEST),
        kernel,
        architecture,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        addresses,
        addresses_left_out,
    }
}

fn text(bytes: &std::ffi::OsStr) -> String {
    printable(&bytes.to_string_lossy(), LONGEST)
}

/// `PRETTY_NAME` of os-release(5), or what every Linux is.
fn os_name(release: &str) -> String {
    release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches(['"', '\'']).to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "Linux".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_system_is_taken_from_os_release() {
        let release = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(os_name(release), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(os_name(""), "Linux");
    }

    #[test]
    fn loopback_is_no_address_of_the_device() {
        assert!(!reachable_addresses().iter().any(IpAddr::is_loopback));
    }

    #[test]
    fn addresses_that_are_too_many_are_counted() {
        let many = |n: u8| (0..n).map(|n| IpAddr::from([10, 0, 1, n]));
        let more = (0..50).map(|n| IpAddr::from([10, 0, 2, n]));
        assert_eq!(told(&many(9).collect()).1, 0);
        let (addresses, left_out) = told(&many(255).chain(more).collect());
        assert_eq!((addresses.len(), left_out), (MOST_ADDRESSES, 49));
    }
}
