//! The join token: everything a device needs to enrol once, in one string that a person pastes. The
//! operator mints it, `seawall agent enroll` reads it. Pure text; whether a token is known, unused and
//! not expired is for the operator to say.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// Names the format and its version, so that a token pasted elsewhere is recognised.
pub const PREFIX: &str = "swj1.";
/// Longer text is not looked at.
const MAX_LENGTH: usize = 16 * 1024;

#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Names the token to the operator; not secret.
    pub id: String,
    /// Proves that the bearer was given the token.
    pub secret: [u8; 32],
    /// `host:port` of the operator, each tried in turn.
    pub addresses: Vec<String>,
    /// DER. The only authority whose server certificate the agent accepts.
    pub ca_certificate: Vec<u8>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotAJoinToken {
    #[error("the join token must begin with {PREFIX:?}: paste it whole, as it was printed")]
    Prefix,
    #[error(
        "the join token is damaged ({0}): copy it again, or have a new one made with `seawall fleet join-token create`"
    )]
    Damaged(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    i: String,
    s: String,
    a: Vec<String>,
    c: String,
}

impl JoinToken {
    pub fn encode(&self) -> String {
        let fields = Fields {
            i: self.id.clone(),
            s: STANDARD.encode(self.secret),
            a: self.addresses.clone(),
            c: STANDARD.encode(&self.ca_certificate),
        };
        let json = serde_json::to_vec(&fields).expect("strings are always JSON");
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }

    /// White space around the token, as files and pastes have it, is ignored.
    pub fn decode(text: &str) -> Result<Self, NotAJoinToken> {
        use NotAJoinToken::{Damaged, Prefix};
        let body = text.trim().strip_prefix(PREFIX).ok_or(Prefix)?;
        if body.len() > MAX_LENGTH {
            return Err(Damaged("too long"));
        }
        let json = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| Damaged("not base64url"))?;
        let fields: Fields = serde_json::from_slice(&json).map_err(|_| Damaged("not a token"))?;
        let secret = STANDARD
            .decode(&fields.s)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Damaged("its secret is not 32 bytes"))?;
        let ca_certificate = STANDARD
            .decode(&fields.c)
            .ok()
            .filter(|der| !der.is_empty())
            .ok_or(Damaged("its certificate is not base64"))?;
        if fields.i.is_empty() {
            return Err(Damaged("it has no id"));
        }
        if fields.a.is_empty() || !fields.a.iter().all(|address| is_host_and_port(address)) {
            return Err(Damaged("it names no operator as host:port"));
        }
        Ok(Self {
            id: fields.i,
            secret,
            addresses: fields.a,
            ca_certificate,
        })
    }
}

impl std::fmt::Debug for JoinToken {
    /// Without the secret: tokens end up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// `name:port`, `10.0.0.1:port` or `[2001:db8::1]:port`, with nothing that would change the meaning of
/// a URL it is put into.
pub fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.len() <= 253
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    host_ok && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            id: "jt_1".into(),
            secret: [7; 32],
            addresses: vec!["10.0.0.1:8443".into(), "[fd00::1]:8443".into()],
            ca_certificate: vec![0x30, 0x82, 1],
        }
    }

    #[test]
    fn a_token_reads_back_as_it_was_made_with_white_space_around_it() {
        let text = token().encode();
        assert!(text.starts_with("swj1."), "{text}");
        assert_eq!(JoinToken::decode(&format!("  {text}\n")), Ok(token()));
    }

    #[test]
    fn debug_output_does_not_hold_the_secret() {
        let mut token = token();
        token.secret = [0xAB; 32];
        let text = format!("{token:?}");
        assert!(!text.contains("171") && !text.contains("ab, ab"), "{text}");
    }

    #[test]
    fn what_is_no_token_is_refused_with_what_to_do() {
        let whole = token().encode();
        let cut = &whole[..whole.len() - 9];
        let fields = |json: &str| format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json));
        for text in [
            "",
            "swj2.abc",
            "swj1.",
            "swj1.***",
            cut,
            &fields(r#"{"i":"x","s":"AAAA","a":["h:1"],"c":"AAAA"}"#),
            &fields(&format!(
                r#"{{"i":"x","s":"{}","a":[],"c":"AAAA"}}"#,
                STANDARD.encode([0; 32])
            )),
            &fields(&format!(
                r#"{{"i":"x","s":"{}","a":["h/evil:1"],"c":"AAAA"}}"#,
                STANDARD.encode([0; 32])
            )),
        ] {
            let error = JoinToken::decode(text).expect_err(text).to_string();
            assert!(
                error.contains("paste it whole") || error.contains("copy it again"),
                "{error}"
            );
        }
    }
}
