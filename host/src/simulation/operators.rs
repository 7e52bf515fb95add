//! Operators. One looks at the dead letters now and then; another puts other versions of handlers in charge.

use std::sync::Arc;

use super::clients::{History, ask};
use super::crew::Crew;
use super::executor::OUTSIDE;
use super::handlers::versions;

/// Looks at the dead letters, lets some be tried again, gives others up.
pub fn spawn_mender(crew: &Arc<Crew>) {
    let crew = crew.clone();
    crew.clone().world.sim.spawn(OUTSIDE, async move {
        loop {
            let (pause, slot, retries) =
                crew.world.sim.draw(|random| (random.below(1_500) + 300, random.index(crew.len()), random.chance(300)));
            crew.world.sim.sleep_ms(pause).await;
            // Those of a build that is gone are the host's to release.
            let mut letters = super::audit::parked(&crew.world).await;
            letters.retain(|letter| crew.world.is_written(&letter.handler));
            let Some(letter) = letters.pop() else { continue };
            crew.world.sim.note("op", "letter", 0, || format!("{} {retries}", letter.aggregate_id));
            let _told = ask(&crew, slot, |services| async move {
                match retries {
                    true => services.parking.retry(letter.id, "op").await,
                    false => services.parking.discard(letter.id, "hopeless", "op").await,
                }
            })
            .await;
        }
    });
}

/// Puts other versions in charge, or those from before again, or has the projection written anew, so many times.
pub fn spawn_deployer(crew: &Arc<Crew>, history: &Arc<History>, times: u64) {
    *history.working.lock() += 1;
    let (crew, history) = (crew.clone(), history.clone());
    crew.world.sim.clone().spawn(OUTSIDE, async move {
        for _ in 0..times {
            let (pause, slot, place, what) = crew.world.sim.draw(|random| {
                (random.below(2_500), random.index(crew.len()), random.index(versions().len()), random.below(100))
            });
            crew.world.sim.sleep_ms(pause).await;
            let version = &versions()[place];
            let told = ask(&crew, slot, move |services| async move {
                match what {
                    0..25 => services.rebuild("account-projection").await,
                    25..45 => services.roll_back(version.name).await,
                    _ => services.deploy(version).await,
                }
            });
            let told = told.await;
            crew.world.sim.note("op", "deploy", place as u64, || format!("{} {what} {told:?}", version.name));
        }
        *history.working.lock() -= 1;
    });
}
