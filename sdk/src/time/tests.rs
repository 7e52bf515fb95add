//! Known moments in text.

use crate::Timestamp;

fn text(seconds: u64, nanoseconds: u32) -> String {
    Timestamp { seconds, nanoseconds }.to_string()
}

#[test]
fn known_moments_have_their_rfc_3339_text() {
    assert_eq!(text(0, 0), "1970-01-01T00:00:00.000Z");
    assert_eq!(text(951_782_400, 999_999_999), "2000-02-29T00:00:00.999Z");
    assert_eq!(text(1_765_929_600, 1_000_000), "2025-12-17T00:00:00.001Z");
    assert_eq!(text(4_107_542_399, 0), "2100-02-28T23:59:59.000Z");
    assert_eq!(text(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
}
