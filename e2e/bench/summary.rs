//! The figures of a run as one table, in the form in which they stand in `docs/performance.md`.

use super::isolation::{OUTSIDE, STAGES, Samples};

#[derive(Default)]
pub struct Summary {
    columns: Vec<(usize, Samples)>,
}

impl Summary {
    pub fn add(&mut self, agents: usize, samples: Samples) {
        self.columns.push((agents, samples));
    }

    pub fn table(&self) -> String {
        let heads = self.columns.iter().map(|(agents, _)| match agents {
            1 => "1 agent".to_owned(),
            agents => format!("{agents} agents"),
        });
        let mut lines = vec![
            row("median / 99th percentile, ms", heads),
            row("---", self.columns.iter().map(|_| "---".to_owned())),
            self.row("to the last packet", |s| {
                Some(s.last_packet.median_and_p99())
            }),
            self.row("to the device's own read-back", |s| {
                Some(s.device.median_and_p99())
            }),
            self.row("to the answer: read back by every peer", |s| {
                Some(s.answer.median_and_p99())
            }),
        ];
        for stage in STAGES.iter().chain([&OUTSIDE]) {
            lines.push(self.row(&format!("`{stage}`"), |s| s.of_stage(stage)));
        }
        lines.extend(self.columns.iter().filter_map(late));
        lines.join("\n")
    }

    fn row(&self, name: &str, cell: impl Fn(&Samples) -> Option<(f64, f64)>) -> String {
        let cells = self.columns.iter().map(|(_, samples)| match cell(samples) {
            Some((median, p99)) => format!("{median:.1} / {p99:.1}"),
            None => "–".to_owned(),
        });
        row(name, cells)
    }
}

fn late((agents, samples): &(usize, Samples)) -> Option<String> {
    let late = samples.late;
    (late > 0).then(|| format!("\n{agents} agents: {late} answers came before the last peer's"))
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = std::iter::once(name.to_owned()).chain(cells).collect();
    format!("| {} |", cells.join(" | "))
}
