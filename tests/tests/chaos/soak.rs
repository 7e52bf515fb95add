//! A soak: failures drawn from a seed, one upon another, on processes and servers.

use std::time::{Duration, Instant};

use carryall_tests::{Random, Server};

use super::site::{Site, begin_load};
use super::{length, note, seed};

/// A process that stands still for longer has lost its claims and its place in its group.
const PAUSED_MAX_MS: u64 = 8_000;

/// One failure, and its end.
async fn strike(site: &Site, hosts: &mut [Server], random: &Random) {
    let pick = |below: usize| usize::try_from(random.below(below as u64)).unwrap();
    let lasting = |most: u64| Duration::from_millis(200 + random.below(most));
    let host = pick(hosts.len());
    match random.below(8) {
        0 | 1 => {
            note(&format!("host {host} is killed"));
            hosts[host].kill().unwrap();
            tokio::time::sleep(lasting(2_000)).await;
            hosts[host].begin_again().unwrap();
        }
        2 => {
            let pause = lasting(PAUSED_MAX_MS);
            note(&format!("host {host} stands still for {pause:?}"));
            hosts[host].process().signal("STOP").unwrap();
            tokio::time::sleep(pause).await;
            hosts[host].process().signal("CONT").unwrap();
        }
        3 => {
            note(&format!("host {host} is stopped and started"));
            assert!(hosts[host].terminate().await.unwrap().success(), "{}", hosts[host].host_log());
            hosts[host].begin_again().unwrap();
        }
        4 | 5 => {
            let name = ["kafka", "postgres", "minio"][pick(3)];
            let (killed, away) = (random.below(2) == 0, lasting(3_000));
            note(&format!("{name} is {} for {away:?}", if killed { "killed" } else { "stopped" }));
            match killed {
                true => site.servers.kill(name).unwrap(),
                false => site.servers.stop(name).await.unwrap(),
            }
            tokio::time::sleep(away).await;
            site.servers.start(name).await.unwrap();
        }
        6 => {
            let (per_mille, time) = (100 + random.below(200), lasting(3_000));
            note(&format!("of a thousand requests to MinIO {per_mille} fail, for {time:?}"));
            site.proxy.misbehave(per_mille);
            tokio::time::sleep(time).await;
            site.proxy.misbehave(0);
        }
        _ => {
            let (delay, time) = (lasting(1_500), lasting(3_000));
            note(&format!("MinIO answers {delay:?} later, for {time:?}"));
            site.proxy.delay(delay);
            tokio::time::sleep(time).await;
            site.proxy.delay(Duration::ZERO);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_soak_of_random_failures_loses_nothing_and_repeats_nothing() {
    let (site, seed) = (Site::new().await, seed());
    note(&format!("soak with seed {seed}"));
    let random = Random::new(seed);
    let mut hosts = site.split().await;
    hosts.push(site.start("all").await);
    let clients = (0..3).map(|_| hosts[0].client()).chain((0..3).map(|_| hosts[4].client()));
    let load = begin_load(clients).await;
    let begin = Instant::now();
    while begin.elapsed() < length() * 3 {
        strike(&site, &mut hosts, &random).await;
        tokio::time::sleep(Duration::from_millis(random.below(1_000))).await;
    }
    site.converge(hosts, load).await;
}
