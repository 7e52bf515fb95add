//! The seeds that are run: two thousand with every test run, any number by `cargo xtask sim`, and those that once found
//! something, each with its story.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::process::METRICS;
use super::{Verdict, run};

/// Calls that a report shows.
const TAIL: usize = 100;
/// Seeds of a test run.
const SEEDS: u64 = 2_000;

/// Seeds that found a bug in the source of their day, and what it was. They lead elsewhere when that changes: tests and
/// mutations hold what was mended.
const STORIES: &[(u64, &str)] = &[
    (
        1583,
        "the answer of a put was lost and the segment then read cut short: the committer stopped, and told those whose \
         commands were in it that they were refused",
    ),
    (
        2152,
        "a dead letter was released between the opening of a process and its first look at the log: its consumer \
         waited for that for ever",
    ),
    (
        7584,
        "a build was deleted and begun anew under its name; a consumer of the earlier one moved the checkpoint of the \
         new one, which never saw what lies below it",
    ),
    (
        125_206,
        "a release was heard by the consumers of all partitions: that of another one kept a claim and never decided",
    ),
    (
        8661,
        "a dead letter was released and parked again; a process that lagged told the table of the release, and ended: \
         nobody could release it again",
    ),
];

/// Numbers in the environment that `cargo xtask sim` sets.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs seeds over so many threads; gives those that break something, with what they break, in order.
fn run_all(first: u64, count: u64, threads: u64) -> Vec<(u64, Verdict)> {
    let next = AtomicU64::new(first);
    // Mutations are tried until one seed notices.
    let first_only = number("CARRYALL_SIM_FIRST").is_some();
    let mut broken: Vec<(u64, Verdict)> = std::thread::scope(|scope| {
        let work = || {
            let mut broken = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return broken;
                }
                let verdict = run(seed, 0);
                if verdict.broken.is_some() {
                    broken.push((seed, verdict));
                    if first_only {
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                    }
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a run does not panic")).collect()
    });
    broken.sort_by_key(|(seed, _)| *seed);
    broken
}

/// Tells of seeds that break something: all by name, the first with the calls that led to it.
fn tell(broken: &[(u64, Verdict)]) -> String {
    let mut words: Vec<String> = broken
        .iter()
        .map(|(seed, verdict)| format!("seed {seed}: {}", verdict.broken.as_deref().unwrap_or_default()))
        .collect();
    if let Some((seed, _)) = broken.first() {
        words.push(format!("the last calls of seed {seed}:"));
        words.extend(run(*seed, number("CARRYALL_SIM_TAIL").map_or(TAIL, |calls| calls as usize)).tail);
    }
    words.join("\n")
}

#[test]
fn no_seed_breaks_an_invariant() {
    let (first, count) = (number("CARRYALL_SIM_SEED").unwrap_or(0), number("CARRYALL_SIM_SEEDS").unwrap_or(SEEDS));
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let begin = Instant::now();
    let broken = run_all(first, count, number("CARRYALL_SIM_THREADS").unwrap_or(cores));
    let words = format!("{count} seeds from {first} in {:.1?}, {} failing", begin.elapsed(), broken.len());
    assert!(broken.is_empty(), "{words}\n{}", tell(&broken));
    // Shown with --nocapture.
    std::io::Write::write_all(&mut std::io::stdout(), format!("{words}\n").as_bytes()).unwrap();
}

#[test]
fn the_seeds_that_once_found_something_find_nothing_now() {
    for (seed, story) in STORIES {
        let verdict = run(*seed, 0);
        assert_eq!(verdict.broken, None, "seed {seed}: {story}");
    }
}

/// What is not reached is not proved.
#[test]
fn the_seeds_reach_what_is_rare() {
    (0..40).for_each(|seed| drop(run(seed, 0)));
    for what in ["written", "used"] {
        assert!(METRICS.packs(what).get() > 0, "no pack was {what}");
        assert!(METRICS.snapshots(what).get() > 0, "no snapshot was {what}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..40 {
        if run(seed, 0) != run(seed, 0) {
            let (first, second) = (run(seed, usize::MAX).tail, run(seed, usize::MAX).tail);
            let same = first.iter().zip(&second).take_while(|(first, second)| first == second).count();
            let from = same.saturating_sub(TAIL / 4);
            let (first, second) = (first[from..].iter().take(TAIL / 2), second[same..].iter().take(TAIL / 4));
            let lines = first.chain([&"or".to_owned()]).chain(second).cloned().collect::<Vec<_>>().join("\n");
            panic!("seed {seed} differs after {same} calls:\n{lines}");
        }
    }
}
