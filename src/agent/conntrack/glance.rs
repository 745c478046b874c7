//! A look at the table that costs little: whether it has any connection of somebody who is quarantined.
//! Most peers of an isolated device never talked to it, and netlink's listing takes a lock for each of the
//! table's slots, 10 ms where there are 262,144 of them, however few are in use.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;

use super::Containment;

/// There only where the kernel was built with `CONFIG_NF_CONNTRACK_PROCFS`, for root.
const TABLE: &str = "/proc/net/nf_conntrack";

/// Whether it is certain that no tracked connection concerns `containment`.
pub fn concerns_nobody(containment: &Containment) -> bool {
    let Ok(table) = File::open(TABLE) else {
        return false;
    };
    let mut lines = BufReader::new(table).lines();
    lines.all(|line| line.is_ok_and(|line| !may_concern(&line, containment)))
}

/// What can't be read may.
fn may_concern(line: &str, containment: &Containment) -> bool {
    let ends = line.split_ascii_whitespace().filter_map(|field| {
        let end = field.strip_prefix("src=");
        end.or_else(|| field.strip_prefix("dst="))
    });
    let mut ends = ends.peekable();
    ends.peek().is_none()
        || ends.any(|end| match end.parse::<IpAddr>() {
            Ok(address) => containment.may_concern(address),
            Err(_) => true,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::enforcement::{DeviceState, SelfIsolation};

    fn quarantining(addresses: &[&str]) -> Containment {
        let quarantined = addresses.iter().map(|a| a.parse().expect("an address"));
        let state = DeviceState {
            quarantined: quarantined.collect(),
            ..DeviceState::default()
        };
        Containment::new(&state, [], [])
    }

    const V4: &str = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.5 dst=10.0.7.1 sport=40000 \
                      dport=443 src=10.0.7.9 dst=10.0.0.5 sport=443 dport=40000 [ASSURED] mark=0 zone=0 use=2";
    const V6: &str = "ipv6     10 icmpv6   58 29 src=fd77:0000:0000:0000:0000:0000:0000:0002 \
                      dst=fd77:0000:0000:0000:0000:0000:0000:0003 type=128 code=0 id=7 \
                      src=fd77:0000:0000:0000:0000:0000:0000:0003 dst=fd77:0000:0000:0000:0000:0000:0000:0002 \
                      type=129 code=0 id=7 mark=0 zone=0 use=2";

    #[test]
    fn an_address_of_either_direction_counts_in_either_family() {
        for (line, address) in [(V4, "10.0.7.1"), (V4, "10.0.7.9"), (V6, "fd77::3")] {
            assert!(may_concern(line, &quarantining(&[address])), "{address}");
        }
        let others = quarantining(&["10.0.7.2", "fd77::4"]);
        assert!(!may_concern(V4, &others) && !may_concern(V6, &others));
    }

    #[test]
    fn what_can_not_be_read_and_everything_of_an_isolated_host_may_concern() {
        let other = quarantining(&["10.0.7.2"]);
        assert!(may_concern("something new", &other));
        assert!(may_concern("src=somewhere dst=10.0.0.5", &other));
        let isolated = DeviceState {
            isolation: Some(SelfIsolation::default()),
            ..DeviceState::default()
        };
        assert!(may_concern(V4, &Containment::new(&isolated, [], [])));
    }
}
