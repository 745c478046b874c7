//! Text that came from outside, made fit to be logged in a name's place or shown on a terminal.

/// Names, versions, codes: longer ones are cut.
pub const NAME: usize = 256;
/// Messages and reasons.
pub const MESSAGE: usize = 2_000;

/// `text` without control characters and the invisible ones that reorder or hide text, cut to
/// `limit` characters with an ellipsis.
pub fn clean(text: &str, limit: usize) -> String {
    let mut visible = text.chars().filter(|c| !is_hidden(*c));
    let mut out: String = visible.by_ref().take(limit).collect();
    if visible.next().is_some() {
        out.pop();
        out.push('…');
    }
    out
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_invisible_characters_go_and_long_text_is_cut() {
        assert_eq!(clean("a\u{1b}[31mb\r\n\u{202e}c\u{200b}", 50), "a[31mbc");
        assert_eq!(clean("Köln 東京", 50), "Köln 東京");
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert_eq!(clean("abcdefg", 6), "abcde…");
    }
}
