//! Figures: `target/bench/NAME.json`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

#[derive(Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// `lower` or `higher`.
    pub better: &'static str,
    /// Measured in the same run: floors, peers.
    pub against: Vec<Against>,
    pub machine: String,
}

#[derive(Clone, Serialize)]
pub struct Against {
    pub name: String,
    pub value: f64,
}

impl Against {
    pub fn new(name: &str, value: f64) -> Self {
        Self {
            name: name.to_owned(),
            value,
        }
    }
}

/// To a hundredth.
pub fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 100_000.0).round() / 100.0
}

impl Figure {
    /// One of which less is better, as all here are.
    pub fn new(name: &str, value: f64, unit: &'static str, against: &[Against]) -> Self {
        Self {
            name: name.to_owned(),
            value,
            unit,
            better: "lower",
            against: against.to_vec(),
            machine: machine(),
        }
    }

    pub fn milliseconds(name: &str, value: f64, against: &[Against]) -> Self {
        Self::new(name, value, "ms", against)
    }

    pub fn duration(name: &str, took: Duration, against: &[Against]) -> Self {
        Self::milliseconds(name, milliseconds(took), against)
    }

    pub fn publish(&self) -> anyhow::Result<()> {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let dir = target.parent().unwrap_or(&target).join("bench");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{}.json", self.name));
        std::fs::write(path, serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }
}

/// Times of many runs.
#[derive(Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1000.0);
    }

    pub fn add_ms(&mut self, ms: f64) {
        self.0.push(ms);
    }

    pub fn median_and_p99(&self) -> (f64, f64) {
        (self.percentile(50), self.percentile(99))
    }

    /// By the nearest rank, in milliseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        let value = sorted.get(rank - 1).copied().unwrap_or(f64::NAN);
        (value * 100.0).round() / 100.0
    }
}

/// Processor, cores, memory, kernel.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = field(&cpu, "model name");
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{model}, {cores} cores, {}, Linux {}",
        field(&memory, "MemTotal"),
        kernel.trim()
    )
}
