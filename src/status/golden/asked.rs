//! The golden cases of `tests/golden-explain`: facts and resources as in `tests/golden`, then questions who
//! reaches whom, and the answers whole, with the step that decides marked by a star.

use serde_json::{Value, json};

use super::*;
use crate::domain::explain::{Explanation, Known, Path as Way, Point, Question, Step, explain};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    from: String,
    to: String,
    /// As people write it: `5432/TCP`.
    port: String,
    /// The namespace whose agent asks.
    tenant: Option<String>,
}

impl Asked {
    fn text(&self) -> String {
        let Self {
            from,
            to,
            port,
            tenant,
        } = self;
        let by = tenant.iter().map(|tenant| format!(", asked by {tenant}"));
        format!("{from} to {to} at {port}{}", by.collect::<String>())
    }

    /// Text that is no question is answered as the command line answers it.
    fn question(&self) -> Result<Question, String> {
        let (port, protocol) =
            Question::port_and_protocol(&self.port).map_err(|error| error.to_string())?;
        let place = |text: &str| text.parse().map_err(|error| format!("{error}"));
        Ok(Question {
            from: place(&self.from)?,
            to: place(&self.to)?,
            protocol,
            port,
            tenant: self.tenant.clone(),
        })
    }
}

/// What comes out, in the form of the files.
pub fn outcome(case: &Case) -> Value {
    let world = world(case);
    let compiled = compile(&world, case.now);
    let applied = case.applied.as_ref();
    let applied = applied.map(|acknowledged| applied_of(&compiled, acknowledged, case.now).devices);
    let known = Known {
        world: &world,
        compiled: &compiled,
        applied: applied.as_ref(),
    };
    let answers = case.ask.iter().map(|asked| {
        let answer = asked
            .question()
            .and_then(|question| explain(&known, &question).map_err(|error| error.to_string()));
        let mut shown = match answer {
            Ok(answer) => view(&answer),
            Err(error) => json!({"error": error}),
        };
        shown["asked"] = asked.text().into();
        shown
    });
    json!({"answers": answers.collect::<Vec<_>>()})
}

fn view(answer: &Explanation) -> Value {
    let Explanation {
        from,
        to,
        protocol: _,
        port,
        verdict,
        because,
        paths,
        notes,
    } = answer;
    let mut shown = json!({
        "verdict": format!("{verdict:?}: {because}"),
        "of": format!("{from} to {to} at {}", port.map_or("ICMP".into(), |p| p.to_string())),
    });
    if !notes.is_empty() {
        shown["notes"] = json!(notes);
    }
    match paths.as_slice() {
        [] => {}
        [one] => shown["points"] = points(one),
        several => {
            let paths = several.iter().map(|path| {
                json!({
                    "pairs": pairs(path),
                    "verdict": format!("{:?}: {}", path.verdict, path.because),
                    "points": points(path),
                })
            });
            shown["paths"] = paths.collect();
        }
    }
    shown
}

fn pairs(path: &Way) -> Vec<String> {
    let pairs = path.pairs.iter();
    pairs
        .map(|pair| format!("{} to {}", pair.from, pair.to))
        .collect()
}

fn points(path: &Way) -> Value {
    let points = path.points.iter().map(|point| {
        let Point {
            side,
            layer,
            at,
            passes,
            steps,
            unmatched_left_out,
            device: _,
        } = point;
        assert_eq!(*unmatched_left_out, 0, "a case shows all its steps");
        let passes = if *passes { "passes" } else { "is cut" };
        let point = format!("{side:?} {layer:?} at {at} {passes}");
        json!({point: steps.iter().map(step).collect::<Vec<_>>()})
    });
    points.collect()
}

fn step(step: &Step) -> String {
    let Step {
        resource,
        rule,
        did,
        decisive,
    } = step;
    let whose = resource.as_ref().map(|resource| format!("{resource} "));
    let decisive = if *decisive { " *" } else { "" };
    let words = format!("{}{rule}", whose.unwrap_or_default());
    format!("{}: {did:?}{decisive}", words.trim_end())
}

#[test]
fn every_question_is_answered_as_it_is_written() {
    compare("tests/golden-explain", outcome);
}

#[test]
fn every_case_of_a_question_says_what_it_shows_and_which_rule_it_rests_on() {
    let cases = cases("tests/golden-explain");
    assert!(cases.len() >= 20, "only {} cases were found", cases.len());
    let mut titles = BTreeSet::new();
    for (path, text) in cases {
        let case = parse(&path, &text);
        assert!(!case.cites.trim().is_empty(), "{}", path.display());
        assert!(!case.ask.is_empty(), "{}: asks nothing", path.display());
        assert!(titles.insert(case.title), "{}: title twice", path.display());
    }
}
