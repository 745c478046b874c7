//! Text from outside (host names, what the kernel or the operator says) made fit to print: no control
//! characters, bounded length.

/// The text without control characters, cut to at most `longest` characters.
pub fn printable(text: &str, longest: usize) -> String {
    let mut characters = text.chars().filter(|c| !c.is_control());
    let mut kept: String = characters.by_ref().take(longest).collect();
    if characters.next().is_some() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_left_out_and_long_text_is_cut() {
        assert_eq!(printable("a\u{1b}[31mb\n", 64), "a[31mb");
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(printable("abc", 3), "abc");
    }
}
