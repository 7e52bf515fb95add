//! Tests of what the benchmark computes.

use super::report::Percentiles;

#[test]
fn percentiles_are_ranks_not_means() {
    let hundred = Percentiles::of((1..=100).rev().map(|ms| ms * 1000).collect());
    assert_eq!((hundred.p50, hundred.p99, hundred.max), (50.0, 99.0, 100.0));
    let one = Percentiles::of(vec![7000]);
    assert_eq!((one.p50, one.p99), (7.0, 7.0));
    assert_eq!(Percentiles::of(Vec::new()).p99, 0.0);
}
