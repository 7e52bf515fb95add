//! The bounds of a guest (I10), and the limiter that enforces those on memory and tables.

use wasmtime::ResourceLimiter;

use super::failure::LimitKind;

/// Longest code, message or pointer taken from a guest, in bytes: they enter events, logs and answers.
pub(super) const TEXT_BYTES_MAX: usize = 2_000;
/// Problems kept of one refusal; more than anybody reads.
pub(super) const PROBLEMS_MAX: usize = 100;
/// Headers of one event or command that a handler makes, and the bytes of one name or value.
pub(super) const HEADERS_MAX: usize = 32;
pub(super) const HEADER_BYTES_MAX: usize = 1_024;
/// Milliseconds between two ticks of the engine's clock: the grain of [`Limits::wall_ms`] and [`Limits::in_place_ms`].
pub(super) const TICK_MS: u64 = 10;
/// Calls of a handler made elsewhere from the beginning after one that was cut short: if all are slow, what is done in
/// vain stays below a hundredth.
pub(super) const SLOW_CALLS: u32 = 100;
/// Milliseconds a call waits for a pooled instance before it gives up.
pub(super) const SLOT_WAIT_MS: u64 = 5_000;

/// What one call may use. The defaults are generous for domain logic and small for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a component. 32 MiB holds a bundled Python runtime (18 MB), the largest seen.
    pub component_bytes_max: usize,
    /// Fuel of one call, about one unit an instruction: some 0.2–0.5 s of work.
    pub fuel: u64,
    /// Fuel of all calls of one turn in place: a few milliseconds of work, in which many small calls fit.
    pub in_place_fuel: u64,
    /// Milliseconds of wall-clock time after which a call in place is cut short, whatever fuel it used.
    pub in_place_ms: u64,
    /// Milliseconds of wall-clock time of one call; the backstop behind fuel, wide since machines stall.
    pub wall_ms: u64,
    /// Bytes over all memories of an instance.
    pub memory_bytes_max: usize,
    /// Elements over all tables of an instance.
    pub table_elements_max: usize,
    /// Bytes of native stack.
    pub stack_bytes_max: usize,
    /// Bytes copied out of the guest in one call.
    pub output_bytes_max: usize,
    /// Bytes of one event's data, one command's payload or one document; with its envelope it stays below 768 KiB.
    pub item_bytes_max: usize,
    /// Bytes of a state.
    pub state_bytes_max: usize,
    /// Events of one decision.
    pub events_max: usize,
    /// Bytes over all events of one decision: they are one append of at most 3 MiB.
    pub events_bytes_max: usize,
    /// Commands issued by one decision.
    pub commands_max: usize,
    /// Aggregates asked for in one `needs` round.
    pub reads_max: usize,
    /// Writes, or documents asked for, of one projection batch.
    pub writes_max: usize,
    /// Events that one stored event may become.
    pub upcast_max: usize,
    /// Bytes of output that an instance may log; the rest is dropped and said so.
    pub log_bytes_max: usize,
    /// Instances alive at once. Each reserves 4 GiB of address space, not of memory.
    pub instances_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            component_bytes_max: 32 << 20,
            fuel: 1_000_000_000,
            in_place_fuel: 10_000_000,
            in_place_ms: 10,
            wall_ms: 10_000,
            memory_bytes_max: 64 << 20,
            table_elements_max: 20_000,
            stack_bytes_max: 512 << 10,
            output_bytes_max: 24 << 20,
            item_bytes_max: 704 << 10,
            state_bytes_max: 8 << 20,
            events_max: 1_000,
            events_bytes_max: 2_816 << 10,
            commands_max: 10_000,
            reads_max: 64,
            writes_max: 20_000,
            upcast_max: 16,
            log_bytes_max: 16 << 10,
            instances_max: 128,
        }
    }
}

/// Counts memory and table elements over the whole instance. Growth beyond the bound is a trap, not a -1: a guest that
/// meets its limit is a recorded outcome, and must not depend on how its allocator takes bad news.
#[derive(Debug)]
pub(super) struct Limiter {
    memory_left: usize,
    tables_left: usize,
    /// The limit that ended the call, if one of these did.
    pub(super) met: Option<LimitKind>,
}

impl Limiter {
    pub(super) fn new(limits: &Limits) -> Limiter {
        Limiter { memory_left: limits.memory_bytes_max, tables_left: limits.table_elements_max, met: None }
    }

    fn take(
        left: &mut usize,
        met: &mut Option<LimitKind>,
        which: LimitKind,
        (current, desired, maximum): (usize, usize, Option<usize>),
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        match left.checked_sub(desired.saturating_sub(current)) {
            Some(rest) => {
                *left = rest;
                Ok(true)
            }
            None => {
                *met = Some(which);
                Err(wasmtime::format_err!("growing to {desired} passes the {which} limit"))
            }
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Limiter::take(&mut self.memory_left, &mut self.met, LimitKind::Memory, (current, desired, maximum))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.met = Some(LimitKind::Memory);
        Err(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Limiter::take(&mut self.tables_left, &mut self.met, LimitKind::Tables, (current, desired, maximum))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.met = Some(LimitKind::Tables);
        Err(error)
    }
}
