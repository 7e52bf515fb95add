//! Sets up the engine once, and judges components by their imports and exports.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, Trap};

use super::compiled::Compiled;
use super::failure::{Error, Failure, LimitKind};
use super::handler::{CallContext, Handler};
use super::limits::{Limits, SLOT_WAIT_MS, TICK_MS};
use super::state::{CallKind, Identity, State};
use super::ticker::{Running, Ticker};
use super::turn;
use super::wasi;
use super::wit_0_1;
use crate::domain::Digest;

/// Core instances, memories and tables of one component: what its linker glue needs, and some for composed components.
const CORE_INSTANCES_PER_COMPONENT: u32 = 16;
const MEMORIES_PER_COMPONENT: u32 = 4;
const TABLES_PER_COMPONENT: u32 = 8;
/// A Rust component has three core instances, one memory and two tables; the pool holds some more for each slot.
const CORE_INSTANCES_PER_SLOT: u32 = 5;
const TABLES_PER_SLOT: u32 = 3;
/// Bytes of a memory, of those a guest wrote, that stay mapped between two uses: more than domain logic touches in
/// one call.
const KEEP_RESIDENT_BYTES: usize = 512 << 10;
/// The same for a table: 8,192 elements.
const KEEP_RESIDENT_TABLE_BYTES: usize = 64 << 10;
/// Slots that stay warm while unused: a wave of decisions opens 48 at once for each worker. With the bytes above this
/// bounds what an idle host keeps, at 50 MiB if every guest wrote that much; a small one keeps 0.1 MiB.
const WARM_SLOTS: u32 = 100;

/// How a sandbox is set up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub limits: Limits,
    /// Where compiled code is kept between runs; without it, every start compiles anew.
    pub cache_folder: Option<PathBuf>,
}

/// The engine with everything that all handlers share. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    limits: Limits,
    linker: Linker<State>,
    compiled: Compiled,
    ticker: Ticker,
    slots: Arc<Slots>,
    engine: Engine,
}

impl Sandbox {
    /// Sets the engine up. Starts one thread, which sleeps while no guest runs and ends with the last clone and
    /// handler.
    pub fn new(options: Options) -> Result<Sandbox, Error> {
        let failed = |error: wasmtime::Error| Error::Engine { message: format!("{error:#}") };
        let engine = Engine::new(&config(&options.limits)).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        wasi::link(&mut linker).map_err(failed)?;
        let ticker = Ticker::start(engine.clone())
            .map_err(|error| Error::Engine { message: format!("no thread for the ticker: {error}") })?;
        let slots = Arc::new(Slots { free: Mutex::new(options.limits.instances_max), freed: Condvar::new() });
        let compiled = Compiled::open(options.cache_folder.as_deref(), &engine)?;
        Ok(Sandbox { inner: Arc::new(Inner { limits: options.limits, linker, compiled, ticker, slots, engine }) })
    }

    /// Judges a component, compiles it or takes the code compiled before, and lets it describe itself.
    ///
    /// Blocks for as long as the compiler takes (some 0.1 s a component). Idempotent: the same bytes give an equal
    /// handler.
    pub fn load(&self, component: &[u8]) -> Result<Arc<Handler>, Error> {
        self.load_digested(Digest::of(component), component)
    }

    /// [`Sandbox::load`] of a component whose digest the caller has computed.
    pub fn load_digested(&self, digest: Digest, component: &[u8]) -> Result<Arc<Handler>, Error> {
        let max = self.inner.limits.component_bytes_max;
        if component.len() > max {
            return Err(Error::TooLarge { bytes: component.len(), max });
        }
        let compiled = self.inner.compiled.get_or_compile(&self.inner.engine, digest, component)?;
        self.refuse_imports(&compiled)?;
        let exports = self.exports(&compiled)?;
        let exports = wit_0_1::find_world(&exports)?;
        let pre = self.inner.linker.instantiate_pre(&compiled).map_err(|error| Error::RefusedImport {
            name: import_named_in(&error.to_string()),
            reason: "the host has no function of this name and type".into(),
        })?;
        let exports = exports.bind(&pre)?;
        Ok(Arc::new(Handler::new(self.inner.clone(), digest, exports, pre)?))
    }

    fn refuse_imports(&self, component: &Component) -> Result<(), Error> {
        for (name, _) in component.component_type().imports(&self.inner.engine) {
            if !wasi::is_linked(name) && !wit_0_1::is_types(name) {
                let reason = "a handler gets everything as arguments; only the WASI 0.2 interfaces that a language \
                              runtime drags in are linked, as stubs";
                return Err(Error::RefusedImport { name: name.to_owned(), reason: reason.into() });
            }
        }
        Ok(())
    }

    fn exports(&self, component: &Component) -> Result<Vec<String>, Error> {
        Ok(component.component_type().exports(&self.inner.engine).map(|(name, _)| name.to_owned()).collect())
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

/// The name in back-quotes of the engine's complaint; the whole of it when there is none.
fn import_named_in(message: &str) -> String {
    message.split('`').nth(1).unwrap_or(message).to_owned()
}

fn config(limits: &Limits) -> Config {
    // Linux 6.7 and later tell which pages a guest wrote, and only those are cleaned. Without that, cleaning by hand
    // touches everything that stays mapped, which costs more than giving it back.
    let (memory_resident, table_resident) = if PoolingAllocationConfig::is_pagemap_scan_available() {
        (KEEP_RESIDENT_BYTES, KEEP_RESIDENT_TABLE_BYTES)
    } else {
        (0, 0)
    };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(limits.instances_max)
        .total_core_instances(limits.instances_max * CORE_INSTANCES_PER_SLOT)
        .total_memories(limits.instances_max)
        .total_tables(limits.instances_max * TABLES_PER_SLOT)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_memory_size(limits.memory_bytes_max)
        .table_elements(limits.table_elements_max)
        .linear_memory_keep_resident(memory_resident)
        .table_keep_resident(table_resident)
        .max_unused_warm_slots(WARM_SLOTS)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_init_cow(true)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(limits.stack_bytes_max)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // Handlers are synchronous; this saves the bookkeeping for those that are not.
        .concurrency_support(false)
        // A trap's message is short, and a trap is cheap.
        .wasm_backtrace_max_frames(None);
    config
}

impl Inner {
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn store(&self, identity: Arc<Identity>, kind: CallKind, context: CallContext) -> Store<State> {
        let state = State::new(&self.limits, identity, kind, context.now, context.seed);
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(self.limits.output_bytes_max);
        store
    }

    /// Gives the next call its fuel and its deadline, and keeps the clock ticking until the guard is dropped.
    pub(super) fn arm(&self, store: &mut Store<State>) -> wasmtime::Result<Armed<'_>> {
        let limits = &self.limits;
        let left = turn::used().map(|used| limits.in_place_fuel.saturating_sub(used));
        let shortened = left.is_some_and(|left| left < limits.fuel);
        let (fuel, wall_ms) = match left {
            Some(left) if shortened => (left, limits.wall_ms.min(limits.in_place_ms)),
            _ => (limits.fuel, limits.wall_ms),
        };
        store.set_fuel(fuel)?;
        // One more, since the tick under way is partly over.
        store.set_epoch_deadline(wall_ms.div_ceil(TICK_MS) + 1);
        Ok(Armed { fuel, shortened, _running: self.ticker.running() })
    }

    /// Waits for a free instance, for a bounded time.
    pub(super) fn slot(&self) -> Result<Slot, Failure> {
        let deadline = Instant::now() + Duration::from_millis(SLOT_WAIT_MS);
        let mut free = self.slots.free.lock();
        while *free == 0 {
            if turn::used().is_some() {
                return Err(turn::cut_short());
            }
            if self.slots.freed.wait_until(&mut free, deadline).timed_out() && *free == 0 {
                let message = format!("all {} instances were busy for {SLOT_WAIT_MS} ms", self.limits.instances_max);
                return Err(Failure::limit(LimitKind::Instances, message));
            }
        }
        *free -= 1;
        Ok(Slot { slots: self.slots.clone() })
    }
}

/// A call about to be made.
pub(super) struct Armed<'a> {
    fuel: u64,
    /// Less than one call may have: it is in place.
    shortened: bool,
    _running: Running<'a>,
}

impl Armed<'_> {
    /// The call has ended: counts what it used, and tells whether it was cut short.
    pub(super) fn end<T>(self, store: &Store<State>, result: &wasmtime::Result<T>) -> bool {
        let met_bound =
            |error: &wasmtime::Error| matches!(error.downcast_ref::<Trap>(), Some(Trap::OutOfFuel | Trap::Interrupt));
        turn::count(self.fuel.saturating_sub(store.get_fuel().unwrap_or(0)));
        self.shortened && result.as_ref().err().is_some_and(met_bound)
    }
}

struct Slots {
    free: Mutex<u32>,
    freed: Condvar,
}

/// The right to one instance of the pool.
pub(super) struct Slot {
    slots: Arc<Slots>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.slots.free.lock() += 1;
        self.slots.freed.notify_one();
    }
}
