//! What the documents say of the tests is true.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::ensure;
use libtest_mimic::Trial;

use crate::harness::case;

pub fn all() -> Vec<Trial> {
    vec![case(
        "the threat model names tests that there are",
        threat_model,
    )]
}

async fn threat_model() -> anyhow::Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threat-model.md");
    let text = fs::read_to_string(page)?;
    let named: Vec<&str> = text.split('`').filter(|it| it.contains("::")).collect();
    ensure!(named.len() > 20, "the page names {} tests", named.len());
    let tests = super::all();
    let names: BTreeSet<&str> = tests.iter().map(Trial::name).collect();
    let unknown: Vec<&&str> = named
        .iter()
        .filter(|name| !names.contains(**name))
        .collect();
    ensure!(unknown.is_empty(), "there are no tests {unknown:#?}");
    Ok(())
}
