//! How often an agent may call and act: token buckets in memory, one pair for each agent. They start
//! full again when the process restarts, and they are this process's alone.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Principal, Rate};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Above this, agents whose buckets are full again are forgotten.
const TIDY_ABOVE: usize = 1024;

#[derive(Debug, Default)]
pub struct Rates {
    agents: Mutex<HashMap<String, Agent>>,
}

#[derive(Debug)]
struct Agent {
    calls: Option<Bucket>,
    actions: Option<Bucket>,
    /// When somebody was last told that it is over its rate.
    told: Option<Instant>,
}

/// `limit` tokens that come back evenly over `period`.
#[derive(Debug)]
struct Bucket {
    limit: u32,
    period: Duration,
    tokens: f64,
    at: Instant,
}

impl Rates {
    /// Counts a call of any tool.
    pub fn call(&self, principal: &Principal, now: Instant) -> Rate {
        let limit = principal.limits.calls_per_minute;
        self.with(principal, now, |agent| {
            adjusted(&mut agent.calls, limit, MINUTE, now).map_or(Rate::Within, |b| b.take(now))
        })
    }

    /// Whether an action would be within the rate; counts nothing.
    pub fn action_left(&self, principal: &Principal, now: Instant) -> Rate {
        let limit = principal.limits.actions_per_hour;
        self.with(principal, now, |agent| {
            adjusted(&mut agent.actions, limit, HOUR, now).map_or(Rate::Within, |b| b.look(now))
        })
    }

    /// Counts an action.
    pub fn action(&self, principal: &Principal, now: Instant) -> Rate {
        let limit = principal.limits.actions_per_hour;
        self.with(principal, now, |agent| {
            adjusted(&mut agent.actions, limit, HOUR, now).map_or(Rate::Within, |b| b.take(now))
        })
    }

    /// Whether it is a minute or more since this last said yes for the agent.
    pub fn is_news(&self, principal: &Principal, now: Instant) -> bool {
        let mut agents = self.agents.lock().expect("nobody panics holding it");
        let Some(agent) = agents.get_mut(&principal.user) else {
            return true;
        };
        let news = agent
            .told
            .is_none_or(|told| now.saturating_duration_since(told) >= MINUTE);
        if news {
            agent.told = Some(now);
        }
        news
    }

    fn with(
        &self,
        principal: &Principal,
        now: Instant,
        ask: impl FnOnce(&mut Agent) -> Rate,
    ) -> Rate {
        let mut agents = self.agents.lock().expect("nobody panics holding it");
        if agents.len() > TIDY_ABOVE {
            agents.retain(|_, agent| !agent.is_idle(now));
        }
        let agent = agents.entry(principal.user.clone()).or_insert(Agent {
            calls: None,
            actions: None,
            told: None,
        });
        ask(agent)
    }
}

/// The bucket of this limit; a changed limit begins a new one.
fn adjusted(
    bucket: &mut Option<Bucket>,
    limit: Option<i32>,
    period: Duration,
    now: Instant,
) -> Option<&mut Bucket> {
    let limit = limit.and_then(|limit| u32::try_from(limit).ok());
    if bucket.as_ref().map(|bucket| bucket.limit) != limit {
        *bucket = limit.map(|limit| Bucket {
            limit,
            period,
            tokens: f64::from(limit),
            at: now,
        });
    }
    bucket.as_mut()
}

impl Agent {
    fn is_idle(&self, now: Instant) -> bool {
        [&self.calls, &self.actions]
            .into_iter()
            .flatten()
            .all(|bucket| now.duration_since(bucket.at) > bucket.period)
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> Rate {
        let rate = self.look(now);
        if rate == Rate::Within {
            self.tokens -= 1.0;
        }
        rate
    }

    fn look(&mut self, now: Instant) -> Rate {
        let refill = f64::from(self.limit) / self.period.as_secs_f64();
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * refill).min(f64::from(self.limit));
        self.at = now;
        if self.tokens >= 1.0 {
            return Rate::Within;
        }
        Rate::Exceeded {
            retry_after: Duration::from_secs_f64((1.0 - self.tokens) / refill),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::decide::tests::principal;
    use crate::api::Access;

    #[test]
    fn a_limit_is_a_burst_that_comes_back_evenly() {
        let rates = Rates::default();
        let mut agent = principal(Access::Contain);
        agent.limits.calls_per_minute = Some(2);
        let start = Instant::now();
        assert_eq!(rates.call(&agent, start), Rate::Within);
        assert_eq!(rates.call(&agent, start), Rate::Within);
        assert_eq!(
            rates.call(&agent, start),
            Rate::Exceeded {
                retry_after: Duration::from_secs(30)
            }
        );
        assert_eq!(
            rates.call(&agent, start + Duration::from_secs(31)),
            Rate::Within
        );
    }

    #[test]
    fn calls_and_actions_and_agents_are_counted_apart() {
        let rates = Rates::default();
        let mut agent = principal(Access::Contain);
        agent.limits.calls_per_minute = Some(1);
        agent.limits.actions_per_hour = Some(1);
        let mut other = agent.clone();
        other.user.push_str("-other");
        let now = Instant::now();
        assert_eq!(rates.call(&agent, now), Rate::Within);
        assert_eq!(rates.action_left(&agent, now), Rate::Within);
        assert_eq!(rates.action(&agent, now), Rate::Within);
        assert_ne!(rates.action_left(&agent, now), Rate::Within);
        assert_eq!(rates.call(&other, now), Rate::Within);
        assert!(matches!(rates.action(&agent, now), Rate::Exceeded { .. }));
    }

    #[test]
    fn being_over_the_rate_is_news_once_a_minute() {
        let rates = Rates::default();
        let agent = principal(Access::Contain);
        let now = Instant::now();
        assert_eq!(rates.call(&agent, now), Rate::Within);
        let at = |seconds| rates.is_news(&agent, now + Duration::from_secs(seconds));
        assert_eq!(
            [0, 1, 59, 60, 61].map(at),
            [true, false, false, true, false]
        );
    }

    #[test]
    fn without_a_limit_nothing_is_counted_and_a_new_limit_counts_from_full() {
        let rates = Rates::default();
        let mut agent = principal(Access::Contain);
        let now = Instant::now();
        for _ in 0..1000 {
            assert_eq!(rates.call(&agent, now), Rate::Within);
        }
        agent.limits.calls_per_minute = Some(1);
        assert_eq!(rates.call(&agent, now), Rate::Within);
        assert!(matches!(rates.call(&agent, now), Rate::Exceeded { .. }));
    }
}
