//! Keys of agents: `swk_` and 256 random bits. Only a key's SHA-256 is kept. The key is random and
//! long, so a slow hash would add nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use sha2::{Digest, Sha256};

pub const PREFIX: &str = "swk_";
/// 32 bytes in base64url.
const ENCODED: usize = 43;

/// A new key; whoever makes it shows it once.
pub fn generate() -> String {
    let mut bytes = [0u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// What a scope holds of a key: `sha256:` and the hex SHA-256 of the whole key.
pub fn hash(key: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(key)))
}

/// Whether the text has the shape of a key; says nothing of whether anybody made it.
pub fn is_well_formed(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|rest| {
        rest.len() == ENCODED
            && rest
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_has_the_shape_of_a_key_and_no_two_are_alike() {
        let (one, two) = (generate(), generate());
        assert!(is_well_formed(&one), "{one}");
        assert_ne!(one, two);
    }

    #[test]
    fn a_hash_is_that_of_the_whole_key_as_sha256sum_gives_it() {
        assert_eq!(
            hash("swk_example"),
            "sha256:5b97478df47700c40ec189c0d48b77fa95889362a5d59f262beede89a3e9abbc"
        );
    }

    #[test]
    fn other_tokens_are_not_taken_for_keys() {
        for text in [
            "",
            "swk_",
            "Bearer swk_",
            "swk_short",
            &format!("swk_{}", "=".repeat(43)),
        ] {
            assert!(!is_well_formed(text), "{text}");
        }
    }
}
