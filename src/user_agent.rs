//! By what name this program goes in the API server's own audit log: part and version.

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::Config;

/// Who of this program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Operator,
    Mcp,
    /// A person's command.
    Command,
}

impl Part {
    /// What its user agent begins with, before `/` and the version.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "seawall-operator",
            Self::Mcp => "seawall-mcp",
            Self::Command => "seawall",
        }
    }

    fn header(self) -> HeaderValue {
        let text = format!("{}/{}", self.name(), env!("CARGO_PKG_VERSION"));
        HeaderValue::from_str(&text).expect("names and versions are ASCII")
    }
}

/// Every request of a client made of the configuration says that it is this part's, unless it says something else
/// already.
pub fn tell(config: &mut Config, part: Part) {
    if !config.headers.iter().any(|(name, _)| name == USER_AGENT) {
        config.headers.push((USER_AGENT, part.header()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_agent_is_part_and_version() {
        let mut config = Config::new("https://127.0.0.1:1".parse().expect("a URL"));
        tell(&mut config, Part::Mcp);
        tell(&mut config, Part::Operator);
        assert_eq!(config.headers.len(), 1);
        let (name, value) = &config.headers[0];
        assert_eq!(name, USER_AGENT);
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(value, &format!("seawall-mcp/{version}"));
    }
}
