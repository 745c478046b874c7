//! How often somebody may do something: token buckets, one alone or one for each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// A bucket that holds `burst` and gains `per_second`.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    burst: f64,
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Allowance {
    pub fn new(burst: u32, per_second: f64, now: Instant) -> Self {
        let burst = f64::from(burst);
        Self {
            burst,
            per_second,
            left: burst,
            at: now,
        }
    }

    /// Takes one, or says how long until there is one.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / self.per_second));
        }
        self.left -= 1.0;
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + elapsed * self.per_second).min(self.burst);
        self.at = now;
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= self.burst
    }
}

/// A bucket for each address; an IPv6 network of /64 counts as one, as one host has all of it.
#[derive(Debug)]
pub struct AllowancePerAddress {
    burst: u32,
    per_second: f64,
    buckets: HashMap<IpAddr, Allowance>,
}

/// Addresses remembered at once. When all are in use, newcomers share one bucket.
const MOST_ADDRESSES: usize = 10_000;

impl AllowancePerAddress {
    pub fn new(burst: u32, per_second: f64) -> Self {
        Self {
            burst,
            per_second,
            buckets: HashMap::new(),
        }
    }

    pub fn take(&mut self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut key = network(address);
        if self.buckets.len() >= MOST_ADDRESSES && !self.buckets.contains_key(&key) {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            if self.buckets.len() >= MOST_ADDRESSES {
                key = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        self.buckets
            .entry(key)
            .or_insert_with(|| Allowance::new(self.burst, self.per_second, now))
            .take(now)
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_with_time() {
        let start = Instant::now();
        let mut allowance = Allowance::new(2, 0.5, start);
        assert!(allowance.take(start).is_ok());
        assert!(allowance.take(start).is_ok());
        assert_eq!(allowance.take(start), Err(Duration::from_secs(2)));
        assert!(allowance.take(start + Duration::from_secs(2)).is_ok());
    }

    #[test]
    fn one_address_does_not_use_up_anothers_and_a_slash_64_is_one() {
        let now = Instant::now();
        let mut allowances = AllowancePerAddress::new(1, 0.1);
        let take = |a: &mut AllowancePerAddress, text: &str| a.take(text.parse().unwrap(), now);
        assert!(take(&mut allowances, "2001:db8::1").is_ok());
        assert!(take(&mut allowances, "2001:db8::2").is_err());
        assert!(take(&mut allowances, "2001:db8:0:1::1").is_ok());
        assert!(take(&mut allowances, "192.0.2.1").is_ok());
        assert!(take(&mut allowances, "::ffff:192.0.2.1").is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut allowances = AllowancePerAddress::new(1, 0.1);
        for n in 0..20_000u32 {
            let _ = allowances.take(IpAddr::V4(n.into()), now);
        }
        assert!(allowances.buckets.len() <= MOST_ADDRESSES + 1);
    }
}
