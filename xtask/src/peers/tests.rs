//! Figures are read from what programs print, and from `/proc`; each turn counts once.
#![allow(clippy::unwrap_used)]

use super::postgres::{latency, number};
use super::{CONTENDERS, Figures, Request, load, median, peers, percentiles, program};

fn figures(commands_per_second: f64) -> Figures {
    Figures { commands_per_second, p50_ms: 1.0, p99_ms: 2.0, cpu_seconds_per_10k: 10.0 - commands_per_second }
}

#[test]
fn the_figures_of_pgbench_are_found() {
    let told = "number of transactions actually processed: 1200/1200\nlatency average = 3.1 ms\n\
                tps = 398.551000 (without initial connection time)\n";
    assert_eq!(number(told, "tps = ").unwrap(), 398.551);
    assert_eq!(number(told, "number of transactions actually processed: ").unwrap(), 1200.0);
    assert!(number(told, "failed transactions: ").is_err());
    assert_eq!(latency("3 17 2412 0 1795953600 120034"), Some(2412));
    assert_eq!(latency(""), None);
}

#[test]
fn the_turn_in_the_middle_counts() {
    assert_eq!(median(&mut [figures(3.0), figures(1.0), figures(2.0)]), Some(figures(2.0)));
    assert_eq!(median(&mut []), None);
}

#[test]
fn half_of_the_latencies_are_at_most_the_median() {
    assert_eq!(percentiles((1..=100).rev().map(|ms| ms * 1000).collect()), (50.0, 99.0));
    assert_eq!(percentiles(vec![7000]), (7.0, 7.0));
    assert_eq!(percentiles(Vec::new()), (0.0, 0.0));
}

#[test]
fn a_process_has_its_times() {
    assert!(program::cpu_seconds(std::process::id()).is_some());
    assert!(program::cpu_seconds(u32::MAX).is_none());
}

#[test]
fn a_report_has_all_its_figures_or_is_refused() {
    let report = program::reported("{\"commands\":100,\"seconds\":2.0,\"p50_ms\":1.5,\"p99_ms\":9}").unwrap();
    let figures = report.with_cpu(0.5).unwrap();
    assert_eq!((figures.commands_per_second, figures.cpu_seconds_per_10k), (50.0, 50.0));
    assert!(program::reported("{\"commands\":100,\"seconds\":2.0,\"p50_ms\":1.5}").is_err());
    assert!(program::reported("Traceback").is_err());
}

#[test]
fn an_answer_ends_where_its_length_says() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
    assert!(load::is_whole(answer).unwrap());
    assert!(!load::is_whole(&answer[..answer.len() - 1]).unwrap());
    assert!(!load::is_whole(&answer[..10]).unwrap());
    assert!(load::is_whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
}

#[test]
fn data_is_one_kib_of_json_and_no_two_are_the_same() {
    let letters = load::letters();
    let one = load::data(&letters, 1);
    assert!((1000..=1048).contains(&one.len()), "{} bytes", one.len());
    assert!(serde_json::from_str::<serde_json::Value>(&one).unwrap().is_object());
    assert_ne!(one, load::data(&letters, 2));
}

#[test]
fn ours_is_beside_whatever_is_chosen() {
    let request = Request::parse(&["--only", "emmett,restate", "--clients", "16"]).unwrap();
    let names: Vec<&str> = request.contenders.iter().map(|contender| contender.peer).collect();
    assert_eq!(names, ["emmett", "emmett", "restate", "carryall", "carryall"]);
    assert_eq!(request.levels.len(), 1);
    assert_eq!(Request::parse(&[]).unwrap().contenders.len(), CONTENDERS.len());
    assert_eq!(peers(), ["postgresql", "eventsourcing", "cqrs-es", "emmett", "restate", "carryall"]);
    for wrong in [["--only", "nobody"], ["--clients", "7"], ["--turns", "3"]] {
        assert!(Request::parse(&wrong).is_err(), "{wrong:?}");
    }
}
