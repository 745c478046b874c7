//! Pages of a list: what a cursor says, how many items there are in an answer, and that no answer is
//! larger than a client takes, whatever limit was asked for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::Failure;

/// Clients cut an answer at 25,000 tokens. At 4 bytes a token that is 100,000 bytes; identifiers and
/// punctuation take less than 4 bytes each, so an answer stays well below.
const MOST_BYTES: usize = 60_000;
const DEFAULT_LIMIT: u32 = 50;
const MOST_ITEMS: u32 = 500;

/// How much of each item is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResponseFormat {
    /// What tells items apart.
    #[default]
    Concise,
    /// All that is known.
    Detailed,
}

/// One page and where the next begins.
#[derive(Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
}

/// The items after the cursor, until `limit` or the room is full. `key` orders the items, as they
/// already are, and is what the cursor holds; `line` is the item's line in the text.
pub fn cut<S, T: Serialize>(
    items: Vec<S>,
    cursor: Option<&str>,
    limit: Option<u32>,
    key: impl Fn(&S) -> String,
    show: impl Fn(S) -> (T, String),
) -> Result<(Page<T>, String), Failure> {
    let after = cursor.map(read_cursor).transpose()?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MOST_ITEMS) as usize;
    let mut page = Page {
        items: Vec::new(),
        next_cursor: None,
    };
    let mut text = String::new();
    let mut room = MOST_BYTES;
    let mut last = None;
    let rest = items
        .into_iter()
        .filter(|item| after.as_ref().is_none_or(|after| key(item) > *after));
    for item in rest {
        let here = key(&item);
        let (shown, line) = show(item);
        let size = serde_json::to_vec(&shown).map_or(0, |json| json.len()) + line.len() + 2;
        let full = page.items.len() == limit || (size > room && !page.items.is_empty());
        if full {
            page.next_cursor = last.as_deref().map(write_cursor);
            break;
        }
        room = room.saturating_sub(size);
        text.push_str(&line);
        text.push('\n');
        page.items.push(shown);
        last = Some(here);
    }
    Ok((page, text))
}

pub fn write_cursor(after: &str) -> String {
    URL_SAFE_NO_PAD.encode(after)
}

pub fn read_cursor(cursor: &str) -> Result<String, Failure> {
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| {
            Failure::invalid(
                "cursor is none that this tool gave: leave it out to begin with the first page",
            )
        })
}

/// How the text of a list begins.
pub fn heading(count: usize, what: &str, next_cursor: Option<&str>) -> String {
    let more = match next_cursor {
        Some(cursor) => format!("; more with cursor {cursor}"),
        None => String::new(),
    };
    let what = match (count, what.strip_suffix('y')) {
        (1, _) => what.to_owned(),
        (_, Some(stem)) => format!("{stem}ies"),
        (_, None) => format!("{what}s"),
    };
    format!("{count} {what}{more}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(count: usize, size: usize, limit: Option<u32>) -> Vec<usize> {
        let items: Vec<String> = (0..count).map(|number| format!("{number:06}")).collect();
        let (mut cursor, mut sizes, mut seen) = (None, Vec::new(), Vec::new());
        loop {
            let show = |item: String| (format!("{item}{}", "x".repeat(size)), item);
            let (page, text) =
                cut(items.clone(), cursor.as_deref(), limit, String::clone, show).expect("a page");
            let bytes = serde_json::to_vec(&page.items).expect("JSON").len() + text.len();
            assert!(bytes <= MOST_BYTES || page.items.len() == 1, "{bytes}");
            seen.extend(page.items.iter().map(|item| item[..6].to_owned()));
            sizes.push(page.items.len());
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, items, "every item once, in order");
        sizes
    }

    #[test]
    fn pages_hold_what_was_asked_for_and_the_last_has_no_cursor() {
        assert_eq!(pages(0, 1, None), [0]);
        assert_eq!(pages(5, 1, Some(2)), [2, 2, 1]);
        assert_eq!(pages(50, 1, None), [50]);
        assert_eq!(pages(51, 1, None), [50, 1]);
        assert_eq!(pages(3, 1, Some(0)), [1, 1, 1]);
    }

    #[test]
    fn no_answer_is_larger_than_clients_take_whatever_the_limit() {
        let sizes = pages(1000, 1000, Some(1_000_000));
        assert!(sizes.len() > 15 && sizes[0] > 40, "{sizes:?}");
        assert_eq!(pages(3, 200_000, Some(100)), [1, 1, 1]);
    }

    #[test]
    fn a_cursor_of_somebody_elses_is_refused() {
        assert!(read_cursor("not base64!").is_err());
        assert_eq!(read_cursor(&write_cursor("dev_x")), Ok("dev_x".into()));
    }
}
