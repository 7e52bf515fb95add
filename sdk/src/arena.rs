//! The guest's allocator: a bump allocator over a static arena, with the standard one behind it.
//!
//! A guest instance lives for one command or one batch, so freeing is worth little, and `memory.grow` is worth
//! avoiding: it costs system calls that do not scale over threads. The arena is part of the initial memory, so
//! growth happens only for what does not fit, which the standard allocator then takes and frees properly.
//! Deterministic: the same calls give the same addresses.
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait, and the arena is raw memory")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;

/// Holds the working set of a decision on an envelope of the greatest size several times over.
const ARENA_BYTES: usize = 1 << 20;

#[repr(align(16))]
struct Arena {
    bytes: UnsafeCell<[u8; ARENA_BYTES]>,
    /// Bytes of the arena handed out, from its start.
    used: UnsafeCell<usize>,
}

// SAFETY: a handler component has no threads: the host refuses components that import or share memory.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena { bytes: UnsafeCell::new([0; ARENA_BYTES]), used: UnsafeCell::new(0) };

impl Arena {
    fn start(&self) -> usize {
        self.bytes.get() as usize
    }

    fn offset(&self, block: *mut u8) -> Option<usize> {
        (block as usize).checked_sub(self.start()).filter(|offset| *offset < ARENA_BYTES)
    }
}

// SAFETY: blocks of the arena are disjoint, aligned and inside it, because `used` only moves back over the
// newest block when that block is given up; every other block belongs to the standard allocator.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: single-threaded, and no reference to `used` outlives this call.
        let used = unsafe { &mut *self.used.get() };
        let aligned = self.start().wrapping_add(*used).next_multiple_of(layout.align()) - self.start();
        match aligned.checked_add(layout.size()).filter(|end| *end <= ARENA_BYTES) {
            Some(end) => {
                *used = end;
                // SAFETY: `aligned + size` is inside the arena.
                unsafe { self.bytes.get().cast::<u8>().add(aligned) }
            }
            // SAFETY: the caller's promises about `layout` are handed on.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            Some(offset) => {
                // SAFETY: as in `alloc`.
                let used = unsafe { &mut *self.used.get() };
                if offset + layout.size() == *used {
                    *used = offset;
                }
            }
            // SAFETY: a block outside the arena came from the standard allocator.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(offset) = self.offset(block) else {
            // SAFETY: a block outside the arena came from the standard allocator.
            return unsafe { System.realloc(block, layout, new_size) };
        };
        // SAFETY: as in `alloc`.
        let used = unsafe { &mut *self.used.get() };
        let newest = offset + layout.size() == *used;
        if new_size <= layout.size() && !newest {
            return block;
        }
        if newest && offset.checked_add(new_size).is_some_and(|end| end <= ARENA_BYTES) {
            *used = offset + new_size;
            return block;
        }
        // SAFETY: `new_size` is not zero, since it is greater than the old size, and the caller promises that
        // it does not overflow when rounded up to the alignment.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size());
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
