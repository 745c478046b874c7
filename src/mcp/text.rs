//! Text that devices and people wrote, made fit to be shown to a model: it is data, and must not hide
//! anything or fill the page.

/// Without control and invisible characters, and at most `most` characters long.
pub fn clean(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().filter(|c| !is_hidden(*c)).take(most).collect();
    if text.chars().filter(|c| !is_hidden(*c)).nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// Control characters, and those of Unicode that show nothing or turn the direction of what follows.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_or_turns_the_page_is_taken_out_and_length_is_capped() {
        assert_eq!(clean("web-0\n\u{1b}[31m", 64), "web-0[31m");
        assert_eq!(clean("a\u{202e}b\u{e0041}c\u{200b}d", 64), "abcd");
        assert_eq!(clean("Zürich 東京", 64), "Zürich 東京");
        assert_eq!(clean("abcdef", 3), "abc…");
        assert_eq!(clean("abc\u{0}", 3), "abc");
    }
}
