//! Lengths of time as people and scopes write them: `90s`, `30m`, `24h`.

use std::time::Duration;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a length of time: write a whole number and s, m or h, such as 90s, 30m or 24h"
)]
pub struct NotASpan(String);

/// The same language as `limits.maxIsolation` of a scope: no zero, at most six digits.
pub fn parse(text: &str) -> Result<Duration, NotASpan> {
    let error = || NotASpan(text.chars().take(32).collect());
    let mut digits = text.to_owned();
    let seconds = match digits.pop() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => return Err(error()),
    };
    let plain = (1..=6).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0');
    let count: u64 = digits.parse().ok().filter(|_| plain).ok_or_else(error)?;
    Ok(Duration::from_secs(count * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_minutes_and_hours_are_read() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(parse("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse("999999h"), Ok(Duration::from_secs(999_999 * 3600)));
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for text in [
            "", "h", "0h", "01m", "1d", "1.5h", "-1h", "+1h", "1 h", "1000000s", "m5", "5µ",
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().contains("such as 90s, 30m or 24h"));
        }
    }
}
