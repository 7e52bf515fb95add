//! The program. Everything it does is in the library.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Guests, HTTP and SQLite allocate from many threads at once, where the system's allocator took a sixth of the time.
/// This one is as fast as the fastest tried, and its threads share what they free: others kept three times as much.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    carryall::cli::main()
}
