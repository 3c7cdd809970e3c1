//! Broken bytes for whatever reads bytes of others: a worker's events, frames and messages, commands of clients, resume
//! tokens. Begins with valid messages and with tests/fuzz/corpus (a file per target, an input in hexadecimal per line), and
//! changes them, the same way for the same seed. Invariants: nothing panics, and what is taken is what a plain reading of the
//! same bytes says.

mod mutate;
mod targets;

use mutate::Mutator;
use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};
use targets::{TARGETS, Target};

/// Inputs per target when nobody says for how long.
const INPUTS: u64 = 4_000;
/// An input that was answered in a new way becomes a seed, up to so many.
const SEEDS_MAX: usize = 512;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(line: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_else(|| panic!("{line}: not hexadecimal")) as u8;
    line.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Returns how many inputs it took.
fn run(target: &Target, seed: u64, until: Option<Instant>) -> u64 {
    let kept = target.corpus.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut seeds = (target.seeds)();
    seeds.extend(kept.filter(|line| !line.is_empty()).map(unhex));
    let mut answers = std::collections::HashSet::new();
    let mut mutator = Mutator::new(seed);
    let take = target.target;
    let mut inputs = 0;
    let ask = |input: &[u8]| match catch_unwind(AssertUnwindSafe(|| take(input))) {
        Ok(answer) => answer,
        Err(_) => panic!("{}: add this line to its corpus and mend it:\n{}", target.name, hex(input)),
    };
    for seed in &seeds {
        answers.insert(ask(seed));
        inputs += 1;
    }
    loop {
        let goes_on = match until {
            Some(until) => Instant::now() < until,
            None => inputs < INPUTS,
        };
        if !goes_on {
            return inputs;
        }
        let input = mutator.next(&seeds);
        if answers.insert(ask(&input)) && seeds.len() < SEEDS_MAX {
            seeds.push(input);
        }
        inputs += 1;
    }
}

// shows: S-15
#[test]
fn broken_bytes_are_refused_and_never_misread() {
    let seed = number("TIDEGATE_FUZZ_SEED").unwrap_or(1);
    let each = number("TIDEGATE_FUZZ_SECONDS").map(|seconds| Duration::from_secs(seconds) / TARGETS.len() as u32);
    for target in TARGETS {
        let inputs = run(target, seed, each.map(|each| Instant::now() + each));
        println!("{}: {inputs} inputs", target.name);
    }
}
