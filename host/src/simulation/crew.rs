//! The processes, and what happens to them: they are killed at any await, paused and woken long after their leases,
//! replaced while the old run still breathes, asked to end; their wall clocks are set; the database is away, lost, or
//! put back to a backup.

use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::executor::{Group, OUTSIDE, Sim};
use super::process::{Ended, Services, Setting};
use super::random::Random;
use super::world::World;
use crate::tests::database::Rows;

/// A wall clock that is nearly right, or minutes off.
fn some_skew(random: &mut Random) -> i64 {
    let most = random.pick(&[500, 600_000]);
    i64::try_from(random.below(2 * most)).expect("a small number") - most as i64
}

/// One place for a process; runs follow one another in it.
#[derive(Debug)]
struct Slot {
    setting: Setting,
    group: Group,
    services: Option<Arc<Services>>,
}

/// All processes of a run.
#[derive(Debug)]
pub struct Crew {
    pub world: Arc<World>,
    slots: Mutex<Vec<Slot>>,
    /// Groups are numbered through; 0 is the outside.
    groups: Mutex<Group>,
    /// Every group that may still run.
    alive: Mutex<Vec<Group>>,
    backup: Mutex<Option<Rows>>,
}

impl Crew {
    pub fn new(world: Arc<World>, processes: usize) -> Arc<Crew> {
        let slots = (0..processes).map(|number| {
            let setting = world.sim.draw(|random| Setting {
                name: format!("p{number}"),
                run: 0,
                skew: Arc::new(Mutex::new(some_skew(random))),
                heads_max: random.pick(&[2, 4, 1_000]),
                recent_bytes_max: random.pick(&[0, 3_000, 1_000_000]),
                index_linger_ms: random.pick(&[0, 30]),
                cache_bytes_max: random.pick(&[0, 1 << 20, 1 << 20]),
                batches_max: random.pick(&[1, 3]),
                snapshot_interval: random.pick(&[0, 3]),
                packs: random.chance(500),
                is_warm: random.chance(970),
            });
            Slot { setting, group: OUTSIDE, services: None }
        });
        let slots = Mutex::new(slots.collect());
        Arc::new(Crew { world, slots, groups: Mutex::new(0), alive: Mutex::default(), backup: Mutex::default() })
    }

    fn sim(&self) -> &Sim {
        &self.world.sim
    }

    pub fn len(&self) -> usize {
        self.slots.lock().len()
    }

    /// The process in a slot, if it is up.
    pub fn services(&self, slot: usize) -> Option<Arc<Services>> {
        self.slots.lock()[slot].services.clone()
    }

    /// Begins the next run in a slot; whatever ran there is nobody's business here.
    pub fn start(self: &Arc<Self>, slot: usize) {
        let group = {
            let mut groups = self.groups.lock();
            *groups += 1;
            *groups
        };
        let setting = {
            let mut slots = self.slots.lock();
            let slot = &mut slots[slot];
            slot.setting.run += 1;
            slot.group = group;
            slot.services = None;
            slot.setting.clone()
        };
        self.alive.lock().push(group);
        let ended = Ended::default();
        self.sim().note("crew", "start", group as u64, || format!("{} run {}", setting.name, setting.run));
        let crew = self.clone();
        let end = ended.clone();
        self.sim().spawn(group, async move {
            match Services::start(&crew.world, group, &setting, &end).await {
                Ok(services) => {
                    if let Some(place) = crew.slots.lock().iter_mut().find(|slot| slot.group == group) {
                        place.services = Some(Arc::new(services));
                    }
                }
                Err(error) => {
                    end.lock().get_or_insert(format!("start: {error}"));
                }
            }
        });
        let crew = self.clone();
        self.sim().spawn(OUTSIDE, async move {
            // The supervisor: what ended is cleared away and started again.
            loop {
                crew.sim().sleep_ms(150).await;
                if !crew.alive.lock().contains(&group) {
                    return;
                }
                let why = ended.lock().clone();
                if let Some(why) = why {
                    crew.sim().note("crew", "ended", group as u64, || why);
                    crew.bury(group);
                    if crew.slots.lock()[slot].group == group {
                        crew.start(slot);
                    }
                    return;
                }
            }
        });
    }

    /// Drops all tasks of a group at whatever await they are.
    fn bury(&self, group: Group) {
        self.sim().wake(group);
        self.sim().kill(group);
        self.alive.lock().retain(|other| *other != group);
        if let Some(slot) = self.slots.lock().iter_mut().find(|slot| slot.group == group) {
            slot.services = None;
        }
    }

    pub fn kill_all(&self) {
        let alive = self.alive.lock().clone();
        for group in alive {
            self.bury(group);
        }
    }

    pub fn wake_all(&self) {
        for group in self.alive.lock().iter() {
            self.sim().wake(*group);
        }
    }

    fn group(&self, slot: usize) -> Group {
        self.slots.lock()[slot].group
    }

    async fn some_ms(&self, max: u64) {
        let ms = self.sim().draw(|random| random.below(max));
        self.sim().sleep_ms(ms).await;
    }

    /// Lets misfortune happen, so many times.
    pub async fn misfortunes(self: Arc<Self>, count: u64) {
        for _ in 0..count {
            self.some_ms(2_500).await;
            let (slot, kind) = self.sim().draw(|random| (random.index(self.len()), random.below(106)));
            let group = self.group(slot);
            self.sim().note("crew", "misfortune", kind, || format!("group {group}"));
            match kind {
                0..30 => {
                    self.bury(group);
                    self.some_ms(3_000).await;
                    self.start(slot);
                }
                30..60 => {
                    self.sim().pause(group);
                    let crew = self.clone();
                    self.sim().spawn(OUTSIDE, async move {
                        crew.some_ms(6_000).await;
                        crew.sim().wake(group);
                    });
                }
                60..70 => {
                    // Taken for dead and replaced; the old run wakes later and goes on for a while.
                    self.sim().pause(group);
                    self.start(slot);
                    let crew = self.clone();
                    self.sim().spawn(OUTSIDE, async move {
                        crew.some_ms(5_000).await;
                        crew.sim().wake(group);
                        crew.some_ms(5_000).await;
                        crew.bury(group);
                    });
                }
                70..80 => {
                    if let Some(services) = self.services(slot) {
                        let world = self.world.clone();
                        self.sim().spawn(group, async move { services.drain(&world).await });
                    }
                }
                80..86 => {
                    *self.world.database_away.lock() = true;
                    self.some_ms(3_000).await;
                    *self.world.database_away.lock() = false;
                }
                100.. => {
                    let skew = self.slots.lock()[slot].setting.skew.clone();
                    *skew.lock() = self.sim().draw(some_skew);
                }
                86..92 => *self.backup.lock() = Some(self.world.database.copy()),
                _ => self.lose_database(kind).await,
            }
        }
    }

    /// A database is lost or put back while nothing runs: a process that lives on would know more than it.
    async fn lose_database(self: &Arc<Self>, kind: u64) {
        self.kill_all();
        self.some_ms(500).await;
        match self.backup.lock().take() {
            Some(backup) if kind < 97 => self.world.database.restore(&backup),
            _ => self.world.database.restore(&Rows::empty()),
        }
        for slot in 0..self.len() {
            self.start(slot);
        }
    }

    /// An id that nobody drew before.
    pub fn fresh_id(&self) -> Uuid {
        let (high, low) = self.sim().draw(|random| (random.word(), random.word()));
        uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes()).into_uuid()
    }
}
