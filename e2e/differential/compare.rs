//! Answers beside what packets did.

use std::fmt;

use seawall::domain::explain::{Explanation, Question, Verdict};

/// How often they agree, and where they don't.
#[derive(Debug, Default)]
pub struct Comparison {
    pub seed: u64,
    pub agree: usize,
    /// Nothing was said, so nothing can be compared.
    pub unknown: usize,
    pub disagreements: Vec<String>,
}

/// `passed` is whether a packet came through and was answered, in the order of the answers.
pub fn compare(
    seed: u64,
    answers: &[(Question, Explanation)],
    passed: &[bool],
) -> anyhow::Result<Comparison> {
    anyhow::ensure!(
        answers.len() == passed.len(),
        "{} answers and {} observations",
        answers.len(),
        passed.len()
    );
    let mut comparison = Comparison {
        seed,
        ..Comparison::default()
    };
    for ((question, answer), passed) in answers.iter().zip(passed) {
        let agrees = match answer.verdict {
            Verdict::Unknown => {
                comparison.unknown += 1;
                continue;
            }
            Verdict::Reaches => *passed,
            Verdict::Blocked => !*passed,
        };
        if agrees {
            comparison.agree += 1;
            continue;
        }
        let met = if *passed { "it passes" } else { "it is cut" };
        let port = answer.port.unwrap_or_default();
        comparison.disagreements.push(format!(
            "{} to {} at {port}/{:?}: said {:?}, {met}: {}",
            question.from, question.to, answer.protocol, answer.verdict, answer.because
        ));
    }
    Ok(comparison)
}

impl Comparison {
    /// Fails with every disagreement, and the seed that finds them again.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.disagreements.is_empty(), "{self}");
        Ok(())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            agree,
            unknown,
            disagreements,
        } = self;
        write!(
            f,
            "seed {seed}: {agree} agree, {unknown} unknown, {} disagree",
            disagreements.len()
        )?;
        disagreements
            .iter()
            .try_for_each(|it| write!(f, "\n  {it}"))
    }
}
