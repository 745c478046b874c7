//! What `compile` takes for a World as large as the API server is good for, on one core: the whole, after one
//! policy changed, and after a thousand Isolations came at once.

use std::hint::black_box;
use std::time::Instant;

use jiff::Timestamp;
use seawall::domain::compile::{Compiler, compile};
use seawall::domain::world::World;

use super::big_world::{TENANTS, changed_policy, isolation, world};
use super::figure::{Against, Figure, Sample};

const RUNS: usize = 10;
/// Ten in each tenant.
const ISOLATIONS: usize = 1_000;

pub fn run() -> anyhow::Result<()> {
    let mut world = world();
    println!(
        "{} policies over {} devices and {} pods",
        world.policies.len(),
        world.devices.len(),
        world.pods.len()
    );
    let whole = wholes(&world);
    let one = changes(&mut world, |world, run| {
        let (key, policy) = changed_policy(run % TENANTS, 7, &format!("10.{run}.0.0/16"));
        world.policies.insert(key, policy);
    });
    for number in 0..ISOLATIONS {
        let (key, isolation) = isolation(number % TENANTS, number / TENANTS);
        world.isolations.insert(key, isolation);
    }
    let isolated = wholes(&world);
    let whole = whole.percentile(50);
    println!(
        "whole {whole} ms; after one change {} ms",
        one.percentile(50)
    );
    println!(
        "whole, with {ISOLATIONS} isolations {} ms",
        isolated.percentile(50)
    );
    let against = [Against::new("whole", whole)];
    Figure::milliseconds("compile_10k_whole", whole, &[]).publish()?;
    let figure = |name: &str, sample: &Sample| {
        Figure::milliseconds(name, sample.percentile(50), &against).publish()
    };
    figure("compile_10k_one_change", &one)?;
    figure("compile_10k_1000_isolations", &isolated)
}

fn wholes(world: &World) -> Sample {
    let mut sample = Sample::default();
    let now = Timestamp::now();
    for _ in 0..RUNS {
        let began = Instant::now();
        let compiled = black_box(compile(black_box(world), now));
        sample.add(began.elapsed());
        drop(compiled);
    }
    sample
}

/// As the reconcile loop does it, which knows what followed before the change.
fn changes(world: &mut World, mut change: impl FnMut(&mut World, usize)) -> Sample {
    let mut sample = Sample::default();
    let now = Timestamp::now();
    let mut compiler = Compiler::default();
    let mut last = compiler.compile(world, now);
    for run in 0..RUNS {
        change(world, run);
        let began = Instant::now();
        let compiled = black_box(compiler.compile(black_box(world), now));
        sample.add(began.elapsed());
        last = compiled;
    }
    drop(last);
    sample
}
