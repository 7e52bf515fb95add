//! WASI as deterministic stubs: what a language runtime drags in, and nothing that reaches outside.
//!
//! The wall clock stands at the command's time, the monotonic clock moves with readings and waits only, randomness is
//! seeded by the caller, there are no arguments, variables, files or input, output goes to the handler log, and exit is
//! a trap. No function here blocks, waits or does I/O, so a guest's deadline always reaches it: this is why the
//! interfaces are implemented here and the ready-made ones are used only for files, of which there are none.
//! Everything else is refused by name when a component is loaded.

use wasmtime::component::{HasData, HasSelf, Linker, Resource};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random, sync};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, IoError, StreamError, StreamResult};

use super::state::State;

/// Interfaces that are linked, of any version 0.2.
const LINKED: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

/// Most bytes a guest gets of one write permit, and of one request for random numbers.
const CHUNK_BYTES: u64 = 64 << 10;
/// Handles need no table: there are three streams, and one pollable that is always ready.
const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const READY: u32 = 3;

/// What `exit` turns into.
#[derive(Debug, thiserror::Error)]
#[error("the handler called exit")]
pub(super) struct Exited;

/// Whether an import of this name is linked.
pub(super) fn is_linked(import: &str) -> bool {
    import.split_once('@').is_some_and(|(name, version)| version.starts_with("0.2.") && LINKED.contains(&name))
}

/// Adds every linked interface.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Own = HasSelf<State>;
    fn own(state: &mut State) -> &mut State {
        state
    }
    fn files(state: &mut State) -> <WasiFilesystem as HasData>::Data<'_> {
        let files = state.files.get_or_insert_default();
        WasiFilesystemCtxView { ctx: &mut files.context, table: &mut files.table }
    }
    cli::environment::add_to_linker::<State, Own>(linker, own)?;
    cli::exit::add_to_linker::<State, Own>(linker, own)?;
    cli::stdin::add_to_linker::<State, Own>(linker, own)?;
    cli::stdout::add_to_linker::<State, Own>(linker, own)?;
    cli::stderr::add_to_linker::<State, Own>(linker, own)?;
    cli::terminal_input::add_to_linker::<State, Own>(linker, own)?;
    cli::terminal_output::add_to_linker::<State, Own>(linker, own)?;
    cli::terminal_stdin::add_to_linker::<State, Own>(linker, own)?;
    cli::terminal_stdout::add_to_linker::<State, Own>(linker, own)?;
    cli::terminal_stderr::add_to_linker::<State, Own>(linker, own)?;
    clocks::wall_clock::add_to_linker::<State, Own>(linker, own)?;
    clocks::monotonic_clock::add_to_linker::<State, Own>(linker, own)?;
    random::random::add_to_linker::<State, Own>(linker, own)?;
    random::insecure::add_to_linker::<State, Own>(linker, own)?;
    random::insecure_seed::add_to_linker::<State, Own>(linker, own)?;
    sync::io::error::add_to_linker::<State, Own>(linker, own)?;
    sync::io::poll::add_to_linker::<State, Own>(linker, own)?;
    sync::io::streams::add_to_linker::<State, Own>(linker, own)?;
    filesystem::preopens::add_to_linker::<State, WasiFilesystem>(linker, files)?;
    sync::filesystem::types::add_to_linker::<State, WasiFilesystem>(linker, files)
}

impl cli::environment::Host for State {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl cli::exit::Host for State {
    fn exit(&mut self, _status: Result<(), ()>) -> wasmtime::Result<()> {
        Err(Exited.into())
    }

    fn exit_with_code(&mut self, _status: u8) -> wasmtime::Result<()> {
        Err(Exited.into())
    }
}

impl cli::stdin::Host for State {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<DynInputStream>> {
        Ok(Resource::new_own(STDIN))
    }
}

impl cli::stdout::Host for State {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        Ok(Resource::new_own(STDOUT))
    }
}

impl cli::stderr::Host for State {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        Ok(Resource::new_own(STDERR))
    }
}

impl cli::terminal_input::Host for State {}

impl cli::terminal_input::HostTerminalInput for State {
    fn drop(&mut self, _terminal: Resource<cli::terminal_input::TerminalInput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl cli::terminal_output::Host for State {}

impl cli::terminal_output::HostTerminalOutput for State {
    fn drop(&mut self, _terminal: Resource<cli::terminal_output::TerminalOutput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl cli::terminal_stdin::Host for State {
    fn get_terminal_stdin(&mut self) -> wasmtime::Result<Option<Resource<cli::terminal_input::TerminalInput>>> {
        Ok(None)
    }
}

impl cli::terminal_stdout::Host for State {
    fn get_terminal_stdout(&mut self) -> wasmtime::Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl cli::terminal_stderr::Host for State {
    fn get_terminal_stderr(&mut self) -> wasmtime::Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl clocks::wall_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        let (seconds, nanoseconds) = self.now.seconds_and_nanos();
        Ok(clocks::wall_clock::Datetime { seconds, nanoseconds })
    }

    fn resolution(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        Ok(clocks::wall_clock::Datetime { seconds: 0, nanoseconds: 1_000_000 })
    }
}

impl clocks::monotonic_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.monotonic_ns())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let now = self.monotonic_ns();
        self.wait_ns(when.saturating_sub(now));
        Ok(Resource::new_own(READY))
    }

    fn subscribe_duration(&mut self, ns: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.wait_ns(ns);
        Ok(Resource::new_own(READY))
    }
}

fn chunk(len: u64) -> wasmtime::Result<usize> {
    if len > CHUNK_BYTES {
        return Err(wasmtime::format_err!("at most {CHUNK_BYTES} random bytes at once"));
    }
    Ok(usize::try_from(len)?)
}

impl random::random::Host for State {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        let len = chunk(len)?;
        Ok(self.random().bytes(len))
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.random().next())
    }
}

impl random::insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        let len = chunk(len)?;
        Ok(self.insecure_random().bytes(len))
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.insecure_random().next())
    }
}

impl random::insecure_seed::Host for State {
    /// Fixed: it orders hash maps, and their order must not differ between two runs of one decision (I8).
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((0x6361_7272_7961_6c6c, 0x6861_6e64_6c65_7273))
    }
}

impl sync::io::error::Host for State {}

impl sync::io::error::HostError for State {
    fn drop(&mut self, _error: Resource<IoError>) -> wasmtime::Result<()> {
        Ok(())
    }

    fn to_debug_string(&mut self, _error: Resource<IoError>) -> wasmtime::Result<String> {
        Ok("unsupported".into())
    }
}

impl sync::io::poll::Host for State {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        if pollables.is_empty() {
            return Err(wasmtime::format_err!("poll of nothing"));
        }
        Ok((0..u32::try_from(pollables.len())?).collect())
    }
}

impl sync::io::poll::HostPollable for State {
    fn ready(&mut self, _pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        Ok(true)
    }

    fn block(&mut self, _pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        Ok(())
    }

    fn drop(&mut self, _pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl sync::io::streams::Host for State {
    fn convert_stream_error(&mut self, error: StreamError) -> wasmtime::Result<sync::io::streams::StreamError> {
        match error {
            StreamError::Closed => Ok(sync::io::streams::StreamError::Closed),
            StreamError::LastOperationFailed(error) | StreamError::Trap(error) => Err(error),
        }
    }
}

impl sync::io::streams::HostOutputStream for State {
    fn check_write(&mut self, _stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        Ok(CHUNK_BYTES)
    }

    fn write(&mut self, _stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.log.write(&bytes);
        Ok(())
    }

    fn blocking_write_and_flush(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.write(stream, bytes)
    }

    fn flush(&mut self, _stream: Resource<DynOutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn blocking_flush(&mut self, _stream: Resource<DynOutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn subscribe(&mut self, _stream: Resource<DynOutputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        Ok(Resource::new_own(READY))
    }

    fn write_zeroes(&mut self, _stream: Resource<DynOutputStream>, _len: u64) -> StreamResult<()> {
        Ok(())
    }

    fn blocking_write_zeroes_and_flush(&mut self, _stream: Resource<DynOutputStream>, _len: u64) -> StreamResult<()> {
        Ok(())
    }

    /// Standard input, the only source there is, has ended.
    fn splice(
        &mut self,
        _stream: Resource<DynOutputStream>,
        _source: Resource<DynInputStream>,
        _len: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn blocking_splice(
        &mut self,
        stream: Resource<DynOutputStream>,
        source: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        self.splice(stream, source, len)
    }

    fn drop(&mut self, _stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl sync::io::streams::HostInputStream for State {
    fn read(&mut self, _stream: Resource<DynInputStream>, _len: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }

    fn blocking_read(&mut self, _stream: Resource<DynInputStream>, _len: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }

    fn skip(&mut self, _stream: Resource<DynInputStream>, _len: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn blocking_skip(&mut self, _stream: Resource<DynInputStream>, _len: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn subscribe(&mut self, _stream: Resource<DynInputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        Ok(Resource::new_own(READY))
    }

    fn drop(&mut self, _stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        Ok(())
    }
}
