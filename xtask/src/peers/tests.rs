//! Figures are read from what programs print, and from `/proc`.
#![allow(clippy::unwrap_used)]

use super::{median, number, times};

#[test]
fn the_figures_of_pgbench_are_found() {
    let told = "number of transactions actually processed: 1200/1200\nlatency average = 3.1 ms\n\
                tps = 398.551000 (without initial connection time)\n";
    assert_eq!(number(told, "tps = ").unwrap(), 398.551);
    assert_eq!(number(told, "number of transactions actually processed: ").unwrap(), 1200.0);
    assert!(number(told, "failed transactions: ").is_err());
}

#[test]
fn the_turn_in_the_middle_counts() {
    assert_eq!(median(&mut [(3.0, 1.0), (1.0, 2.0), (2.0, 9.0)]), (2.0, 9.0));
}

#[test]
fn a_process_has_its_times() {
    assert!(times(std::process::id()).is_some());
    assert!(times(u32::MAX).is_none());
}
