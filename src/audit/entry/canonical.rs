//! JSON with one way to write it, and hashes over that.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// JSON without spaces and with the keys of every object sorted by their bytes.
pub fn canonical_json(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            out.push(b'{');
            for (position, (key, member)) in sorted.into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                scalar(&Value::from(key.as_str()), out);
                out.push(b':');
                write(member, out);
            }
            out.push(b'}');
        }
        Value::Array(elements) => {
            out.push(b'[');
            for (position, element) in elements.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write(element, out);
            }
            out.push(b']');
        }
        other => scalar(other, out),
    }
}

fn scalar(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a JSON value is written to memory");
}

/// The keyed hash of a read's arguments, `hmac-sha256:` and hex: equal arguments can be recognised
/// by who has the key, and guessed by nobody else. HMAC as in RFC 2104, over canonical JSON.
pub fn keyed_hash(key: &[u8; 32], arguments: &Value) -> String {
    let mac = hmac_sha256(key, &canonical_json(arguments));
    format!("hmac-sha256:{}", hex::encode(mac))
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0u8; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth_and_text_is_escaped() {
        let value = json!({"b": [1, {"z": null, "a": "q\"\n"}], "a": true, "ä": 1.5});
        let text = String::from_utf8(canonical_json(&value)).unwrap();
        assert_eq!(text, r#"{"a":true,"b":[1,{"a":"q\"\n","z":null}],"ä":1.5}"#);
    }

    /// RFC 4231, test cases 1, 2 and 6.
    #[test]
    fn the_mac_is_that_of_the_rfc() {
        let mac = |key: &[u8], message: &[u8]| hex::encode(hmac_sha256(key, message));
        assert_eq!(
            mac(&[0x0b; 20], b"Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            mac(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            mac(
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First"
            ),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn equal_arguments_hash_alike_whatever_their_order_and_never_without_the_key() {
        let (a, b) = (json!({"x": 1, "y": 2}), json!({"y": 2, "x": 1}));
        assert_eq!(keyed_hash(&[1; 32], &a), keyed_hash(&[1; 32], &b));
        assert_ne!(keyed_hash(&[1; 32], &a), keyed_hash(&[2; 32], &a));
    }
}
