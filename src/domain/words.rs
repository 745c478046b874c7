//! Words for people that several rooms say: lists in sentences, and what to run.

/// What a person runs to let go what a hold keeps in force.
pub fn confirm_release(hold: &str) -> String {
    format!("seawall release confirm {hold}")
}

/// Names a few of many: `dev_a, dev_b and 7 more`.
pub fn a_few<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    first_of(items, ", ")
}

/// The same for sentences that have commas of their own.
pub fn a_few_words<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    first_of(items, "; ")
}

fn first_of<T: ToString>(items: impl IntoIterator<Item = T>, between: &str) -> String {
    const NAMED: usize = 3;
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    let named = items[..items.len().min(NAMED)].join(between);
    match items.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_names_three_and_counts_the_rest() {
        assert_eq!(a_few(["a", "b", "c"]), "a, b, c");
        assert_eq!(a_few(["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
    }
}
