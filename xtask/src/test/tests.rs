//! Tests of how cargo's summaries are read.

use super::Tally;

#[test]
fn summary_lines_of_cargo_are_added_up() {
    let mut tally = Tally::default();
    tally.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s");
    tally.add("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out");
    tally.add("running 99 tests");
    tally.add("test a::b ... ok");
    assert_eq!((tally.passed, tally.failed, tally.ignored), (14, 3, 1));
}
