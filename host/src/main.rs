//! The program. Everything it does is in the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Guests, HTTP and SQLite allocate from many threads at once, where the system's allocator took a sixth of the time.
/// Without huge pages (`no_thp`): they gave no speed, and kept 170 MiB of never-used pages resident under load.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    carryall::cli::main()
}
