//! What the demo found: a table for people, and `target/demo/report.json`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

#[derive(Serialize)]
pub struct Step {
    pub name: &'static str,
    pub expected: &'static str,
    pub measured: String,
    pub ok: bool,
    /// Why it was not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

#[derive(Default, Serialize)]
pub struct Report {
    pub steps: Vec<Step>,
    pub latency_ms: BTreeMap<&'static str, f64>,
}

impl Report {
    pub fn latency(&mut self, name: &'static str, took: Duration) {
        let ms = (took.as_secs_f64() * 10_000.0).round() / 10.0;
        self.latency_ms.insert(name, ms);
    }

    pub fn ok(&self) -> bool {
        self.steps.iter().all(|step| step.ok)
    }

    pub fn print(&self) {
        println!();
        for (number, step) in self.steps.iter().enumerate() {
            let mark = match (&step.skipped, step.ok) {
                (Some(_), _) => "skip",
                (None, true) => "ok  ",
                (None, false) => "FAIL",
            };
            println!("{mark}  {}. {}", number + 1, step.name);
            print_field("expected", step.expected);
            match &step.skipped {
                Some(why) => print_field("skipped:", why),
                None => print_field("measured", &step.measured),
            }
        }
        println!();
        for (name, ms) in &self.latency_ms {
            println!("{ms:>10.1} ms  {name}");
        }
    }

    pub fn write(&self) -> anyhow::Result<PathBuf> {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let dir = target.parent().unwrap_or(&target).join("demo");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join("report.json");
        std::fs::write(&path, serde_json::to_vec_pretty(self)?)?;
        Ok(path)
    }
}

/// Under one another, wrapped, since the sentences are long.
fn print_field(name: &str, text: &str) {
    const WIDTH: usize = 88;
    let mut lead = format!("      {name:<9} ");
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() >= WIDTH {
            println!("{lead}{line}");
            lead = " ".repeat(lead.len());
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    println!("{lead}{line}");
}
