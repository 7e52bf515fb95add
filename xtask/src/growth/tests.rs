//! Tests of what is drawn.
#![allow(clippy::unwrap_used)]

use super::picture;

#[test]
fn a_point_without_a_figure_is_left_out_and_the_others_are_drawn() {
    let figures = serde_json::json!({"points": [
        {"events": 1000, "host_cpu_seconds_per_10k": 5.0, "ready_ms": 100.0, "host_peak_bytes": 209_715_200_u64,
         "idle_resident_bytes": null, "database_bytes": 1_048_576, "log_bytes": 2_097_152},
        {"events": 100_000, "host_cpu_seconds_per_10k": 10.0, "ready_ms": 110.0, "host_peak_bytes": 314_572_800_u64,
         "idle_resident_bytes": 83_886_080, "database_bytes": 104_857_600, "log_bytes": 209_715_200},
    ]});
    let svg = picture(&figures).unwrap();
    assert_eq!(svg.matches("<polyline").count(), 6);
    assert_eq!(svg.matches("<circle").count(), 11);
    // The greatest value of the first panel lies at the top of its axis, half of it in the middle.
    assert!(svg.contains("points=\"56.0,142.0 422.0,52.0\""), "{svg}");
    assert_eq!(svg, picture(&figures).unwrap());
}

#[test]
fn figures_of_something_else_are_refused() {
    assert!(picture(&serde_json::json!({"levels": []})).is_err());
}
