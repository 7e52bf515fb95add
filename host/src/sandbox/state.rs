//! What the host keeps of one instance: its limiter, its deterministic clock and randomness, and its log. Cheap to
//! make, since every decision makes one: nothing here allocates before a guest asks for it.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;

use super::limits::{Limiter, Limits};
use crate::domain::{Digest, Timestamp};

/// Nanoseconds that pass on the monotonic clock with each reading: a guest that waits for time to pass gets there.
const MONOTONIC_STEP_NS: u64 = 1_000;

/// Which function an instance was opened for; part of what seeds its randomness, so that two calls of one command
/// never share random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallKind {
    Describe,
    Decide,
    Evolve,
    Compare,
    Project,
    Upcast,
}

impl CallKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            CallKind::Describe => "describe",
            CallKind::Decide => "decide",
            CallKind::Evolve => "evolve",
            CallKind::Compare => "compare",
            CallKind::Project => "project",
            CallKind::Upcast => "upcast",
        }
    }
}

/// Who an instance belongs to, for its log lines.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) digest: Digest,
}

/// Data of a store.
pub(super) struct State {
    pub(super) limiter: Limiter,
    pub(super) log: Log,
    pub(super) now: Timestamp,
    pub(super) files: Option<Box<Files>>,
    kind: CallKind,
    seed: (u64, u64),
    random: Option<Random>,
    insecure: Option<Random>,
    monotonic_ns: u64,
}

/// An empty file system, made for the guest that asks for one.
#[derive(Default)]
pub(super) struct Files {
    pub(super) context: WasiFilesystemCtx,
    pub(super) table: ResourceTable,
}

impl State {
    pub(super) fn new(
        limits: &Limits,
        owner: Arc<Identity>,
        kind: CallKind,
        now: Timestamp,
        seed: (u64, u64),
    ) -> State {
        State {
            limiter: Limiter::new(limits),
            log: Log { owner, kind, bytes: Vec::new(), bytes_max: limits.log_bytes_max, dropped: 0 },
            now,
            files: None,
            kind,
            seed,
            random: None,
            insecure: None,
            monotonic_ns: 0,
        }
    }

    /// Random numbers of this call: the same for the same seed and kind of call, for ever (I8).
    pub(super) fn random(&mut self) -> &mut Random {
        let (seed, kind) = (self.seed, self.kind);
        self.random.get_or_insert_with(|| Random::new(seed, kind, "random"))
    }

    pub(super) fn insecure_random(&mut self) -> &mut Random {
        let (seed, kind) = (self.seed, self.kind);
        self.insecure.get_or_insert_with(|| Random::new(seed, kind, "insecure"))
    }

    /// Nanoseconds since the instance began, on a clock that moves with readings and waits only.
    pub(super) fn monotonic_ns(&mut self) -> u64 {
        self.wait_ns(MONOTONIC_STEP_NS);
        self.monotonic_ns
    }

    /// Lets time pass for the guest, and for nobody else.
    pub(super) fn wait_ns(&mut self, ns: u64) {
        self.monotonic_ns = self.monotonic_ns.saturating_add(ns);
    }
}

/// xoshiro256** seeded by SHA-256. The algorithm is part of the contract: a replay must draw the same numbers.
#[derive(Debug, Clone)]
pub(super) struct Random([u64; 4]);

impl Random {
    fn new(seed: (u64, u64), kind: CallKind, purpose: &str) -> Random {
        let mut hasher = Sha256::new();
        hasher.update(b"carryall:handler:");
        hasher.update(purpose.as_bytes());
        hasher.update(b":");
        hasher.update(kind.as_str().as_bytes());
        hasher.update(b":");
        hasher.update(seed.0.to_be_bytes());
        hasher.update(seed.1.to_be_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(8)) {
            *word = u64::from_be_bytes(bytes.try_into().expect("a chunk of eight bytes"));
        }
        Random(words)
    }

    pub(super) fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len.next_multiple_of(8));
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

/// What an instance wrote to stdout and stderr: capped, and told to the host's log when the instance ends.
pub(super) struct Log {
    owner: Arc<Identity>,
    kind: CallKind,
    bytes: Vec<u8>,
    bytes_max: usize,
    dropped: usize,
}

impl Log {
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(self.bytes_max.saturating_sub(self.bytes.len()));
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.dropped = self.dropped.saturating_add(bytes.len() - kept);
    }

    /// What a Rust guest said when it panicked, without the place: that is a path of its author's machine.
    pub(super) fn panic_message(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let mut lines = text.lines().skip_while(|line| !line.contains("panicked at"));
        lines.next()?;
        lines.next().map(str::to_owned)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.bytes);
        tracing::info!(
            target: "carryall::handler",
            handler = %self.owner.name,
            digest = %self.owner.digest,
            call = self.kind.as_str(),
            dropped_bytes = self.dropped,
            "{}",
            text.trim_end(),
        );
    }
}
