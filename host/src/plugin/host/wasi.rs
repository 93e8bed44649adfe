//! WASI 0.2, whole and harmless.
//!
//! Components from C, Python or JavaScript, and Rust's std, import most of WASI without using it.
//! So all of it is there, nothing is granted, and nothing waits:
//!
//! | interface | what a plugin gets |
//! |---|---|
//! | `cli/environment` | nothing: no variables, arguments or directory |
//! | `cli/stdin` | closed |
//! | `cli/stdout`, `cli/stderr` | lines in the gateway's log |
//! | `cli/exit` | a trap that says so |
//! | `clocks/*` | the time; to sleep is a trap |
//! | `random/*` | random bytes |
//! | `io/*` | streams and polls that answer at once; what would have to wait is a trap |
//! | `filesystem/*`, `sockets/*` | `access` errors, no preopens, no resources |
//!
//! wasmtime-wasi's own synchronous implementation is not used: it waits by `Handle::block_on`, which
//! panics inside of a worker's runtime and would stop all of the worker's requests outside of one.
//! Its bindings are, so that every signature is the standard's.
//!
//! Not here: the gateway's own interfaces (the other files of this folder).

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use wasmtime::Engine;
use wasmtime::Result;
use wasmtime::bail;
use wasmtime::component::HasData;
use wasmtime::component::HasSelf;
use wasmtime::component::Linker;
use wasmtime::component::Resource;
use wasmtime::component::ResourceAny;
use wasmtime::component::ResourceTable;
use wasmtime::component::ResourceType;
use wasmtime::component::Type;
use wasmtime::component::Val;
use wasmtime::component::types::ComponentFunc;
use wasmtime::component::types::ComponentInstance;
use wasmtime::component::types::ComponentItem;
use wasmtime_wasi::p2::DynInputStream;
use wasmtime_wasi::p2::DynOutputStream;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::OutputStream;
use wasmtime_wasi::p2::Pollable;
use wasmtime_wasi::p2::StreamError;
use wasmtime_wasi::p2::StreamResult;
use wasmtime_wasi::p2::bindings::cli;
use wasmtime_wasi::p2::bindings::clocks;
use wasmtime_wasi::p2::bindings::io as io_async;
use wasmtime_wasi::p2::bindings::random;
use wasmtime_wasi::p2::bindings::sync::io;
use wasmtime_wasi::p2::pipe::ClosedInputStream;
use wasmtime_wasi::p2::subscribe;

use super::Journal;
use super::State;
use super::journal::Stream;
use super::lock;

/// Random bytes per call. Seeds take 32.
const RANDOM_BYTES_MAX: u64 = 64 * 1024;

/// What a write to stdout or stderr may hold before it must be asked for again.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// A plugin ended itself by `exit`. Traps the instance.
#[derive(Debug, thiserror::Error)]
#[error("it called exit({0})")]
struct Exit(u8);

/// Puts the interfaces that do something into `linker`; [`deny`] adds the others.
pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    type Own = HasSelf<State>;
    let own: fn(&mut State) -> &mut State = |state| state;
    io_async::error::add_to_linker::<State, HasTable>(linker, |state| &mut state.table)?;
    io::poll::add_to_linker::<State, Own>(linker, own)?;
    io::streams::add_to_linker::<State, Own>(linker, own)?;
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
    random::insecure_seed::add_to_linker::<State, Own>(linker, own)
}

/// Access to the resources alone.
struct HasTable;

impl HasData for HasTable {
    type Data<'a> = &'a mut ResourceTable;
}

/// Runs what WASI calls asynchronous but never waits in this host.
fn at_once<T>(future: impl Future<Output = T>) -> Result<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => bail!("it tried to wait, and a plugin may not wait"),
    }
}

impl io::poll::Host for State {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        at_once(io_async::poll::Host::poll(&mut self.table, pollables))?
    }
}

impl io::poll::HostPollable for State {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> Result<bool> {
        at_once(io_async::poll::HostPollable::ready(&mut self.table, pollable))?
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        at_once(io_async::poll::HostPollable::block(&mut self.table, pollable))?
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        io_async::poll::HostPollable::drop(&mut self.table, pollable)
    }
}

impl io::streams::Host for State {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<io::streams::StreamError> {
        Ok(io_async::streams::Host::convert_stream_error(&mut self.table, error)?.into())
    }
}

impl io::streams::HostOutputStream for State {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        io_async::streams::HostOutputStream::check_write(&mut self.table, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        io_async::streams::HostOutputStream::write(&mut self.table, stream, bytes)
    }

    fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        io_async::streams::HostOutputStream::write(&mut self.table, stream, bytes)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        io_async::streams::HostOutputStream::flush(&mut self.table, stream)
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        io_async::streams::HostOutputStream::flush(&mut self.table, stream)
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        subscribe(&mut self.table, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, bytes: u64) -> StreamResult<()> {
        io_async::streams::HostOutputStream::write_zeroes(&mut self.table, stream, bytes)
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: u64,
    ) -> StreamResult<()> {
        io_async::streams::HostOutputStream::write_zeroes(&mut self.table, stream, bytes)
    }

    fn splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        bytes: u64,
    ) -> StreamResult<u64> {
        io_async::streams::HostOutputStream::splice(&mut self.table, to, from, bytes)
    }

    fn blocking_splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        bytes: u64,
    ) -> StreamResult<u64> {
        io_async::streams::HostOutputStream::splice(&mut self.table, to, from, bytes)
    }

    fn drop(&mut self, stream: Resource<DynOutputStream>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl io::streams::HostInputStream for State {
    fn read(&mut self, stream: Resource<DynInputStream>, bytes: u64) -> StreamResult<Vec<u8>> {
        io_async::streams::HostInputStream::read(&mut self.table, stream, bytes)
    }

    fn blocking_read(
        &mut self,
        stream: Resource<DynInputStream>,
        bytes: u64,
    ) -> StreamResult<Vec<u8>> {
        io_async::streams::HostInputStream::read(&mut self.table, stream, bytes)
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, bytes: u64) -> StreamResult<u64> {
        io_async::streams::HostInputStream::skip(&mut self.table, stream, bytes)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, bytes: u64) -> StreamResult<u64> {
        io_async::streams::HostInputStream::skip(&mut self.table, stream, bytes)
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        subscribe(&mut self.table, stream)
    }

    fn drop(&mut self, stream: Resource<DynInputStream>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

/// A standard stream, line by line into the journal.
struct Lines {
    journal: Arc<Mutex<Journal>>,
    stream: Stream,
}

impl State {
    fn lines(&mut self, stream: Stream) -> Result<Resource<DynOutputStream>> {
        let lines: DynOutputStream = Box::new(Lines { journal: Arc::clone(&self.journal), stream });
        Ok(self.table.push(lines)?)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        lock(&self.journal).print(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl cli::stdin::Host for State {
    fn get_stdin(&mut self) -> Result<Resource<DynInputStream>> {
        let closed: DynInputStream = Box::new(ClosedInputStream);
        Ok(self.table.push(closed)?)
    }
}

impl cli::stdout::Host for State {
    fn get_stdout(&mut self) -> Result<Resource<DynOutputStream>> {
        self.lines(Stream::Stdout)
    }
}

impl cli::stderr::Host for State {
    fn get_stderr(&mut self) -> Result<Resource<DynOutputStream>> {
        self.lines(Stream::Stderr)
    }
}

impl cli::environment::Host for State {
    fn get_environment(&mut self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> Result<Option<String>> {
        Ok(None)
    }
}

impl cli::exit::Host for State {
    fn exit(&mut self, status: Result<(), ()>) -> Result<()> {
        Err(Exit(u8::from(status.is_err())).into())
    }

    fn exit_with_code(&mut self, code: u8) -> Result<()> {
        Err(Exit(code).into())
    }
}

impl cli::terminal_input::Host for State {}

impl cli::terminal_input::HostTerminalInput for State {
    fn drop(&mut self, terminal: Resource<cli::terminal_input::TerminalInput>) -> Result<()> {
        self.table.delete(terminal)?;
        Ok(())
    }
}

impl cli::terminal_output::Host for State {}

impl cli::terminal_output::HostTerminalOutput for State {
    fn drop(&mut self, terminal: Resource<cli::terminal_output::TerminalOutput>) -> Result<()> {
        self.table.delete(terminal)?;
        Ok(())
    }
}

impl cli::terminal_stdin::Host for State {
    fn get_terminal_stdin(
        &mut self,
    ) -> Result<Option<Resource<cli::terminal_input::TerminalInput>>> {
        Ok(None)
    }
}

impl cli::terminal_stdout::Host for State {
    fn get_terminal_stdout(
        &mut self,
    ) -> Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl cli::terminal_stderr::Host for State {
    fn get_terminal_stderr(
        &mut self,
    ) -> Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl clocks::wall_clock::Host for State {
    fn now(&mut self) -> Result<clocks::wall_clock::Datetime> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(clocks::wall_clock::Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() })
    }

    fn resolution(&mut self) -> Result<clocks::wall_clock::Datetime> {
        Ok(clocks::wall_clock::Datetime { seconds: 0, nanoseconds: 1 })
    }
}

impl clocks::monotonic_clock::Host for State {
    fn now(&mut self) -> Result<u64> {
        Ok(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn resolution(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> Result<Resource<DynPollable>> {
        let deadline = self.started.checked_add(Duration::from_nanos(when));
        let deadline = self.table.push(Deadline(deadline))?;
        subscribe(&mut self.table, deadline)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the guest's clock")]
    fn subscribe_duration(&mut self, duration: u64) -> Result<Resource<DynPollable>> {
        let deadline = Instant::now().checked_add(Duration::from_nanos(duration));
        let deadline = self.table.push(Deadline(deadline))?;
        subscribe(&mut self.table, deadline)
    }
}

/// A moment that has passed or not; nobody is woken when it does. `None` never passes.
struct Deadline(Option<Instant>);

#[wasmtime_wasi::async_trait]
impl Pollable for Deadline {
    #[expect(clippy::disallowed_methods, reason = "this is the guest's clock")]
    async fn ready(&mut self) {
        if self.0.is_none_or(|deadline| Instant::now() < deadline) {
            std::future::pending::<()>().await;
        }
    }
}

fn random_bytes(bytes: u64) -> Result<Vec<u8>> {
    if bytes > RANDOM_BYTES_MAX {
        bail!("it asked for {bytes} random bytes; at most {RANDOM_BYTES_MAX} are given at once");
    }
    let mut random = vec![0; usize::try_from(bytes)?];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        bail!("the system gave no random bytes");
    }
    Ok(random)
}

fn random_u64() -> Result<u64> {
    let mut random = [0; 8];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        bail!("the system gave no random bytes");
    }
    Ok(u64::from_le_bytes(random))
}

impl random::random::Host for State {
    fn get_random_bytes(&mut self, bytes: u64) -> Result<Vec<u8>> {
        random_bytes(bytes)
    }

    fn get_random_u64(&mut self) -> Result<u64> {
        random_u64()
    }
}

impl random::insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, bytes: u64) -> Result<Vec<u8>> {
        random_bytes(bytes)
    }

    fn get_insecure_random_u64(&mut self) -> Result<u64> {
        random_u64()
    }
}

impl random::insecure_seed::Host for State {
    fn insecure_seed(&mut self) -> Result<(u64, u64)> {
        Ok((random_u64()?, random_u64()?))
    }
}

/// Stands for every file and socket that a plugin does not get.
struct Denied;

/// Resources of `wasi:io` that the denied interfaces name too; [`link`] has defined them.
const IO_RESOURCES: [&str; 4] = ["error", "input-stream", "output-stream", "pollable"];

/// How a denied function answers.
#[derive(Clone, Copy)]
enum Answer {
    /// An error of this case of its error type.
    Error(&'static str),
    /// An empty list: nothing is preopened.
    Nothing,
    /// Something that no function accepts (a network).
    Denied,
    /// A trap.
    Trap,
}

impl Answer {
    fn of(function: &ComponentFunc) -> Self {
        match function.results().next() {
            Some(Type::Result(result)) => match result.err() {
                Some(Type::Enum(error)) => ["access-denied", "access"]
                    .into_iter()
                    .find(|case| error.names().any(|name| name == *case))
                    .map_or(Self::Trap, Self::Error),
                _ => Self::Trap,
            },
            Some(Type::List(_)) => Self::Nothing,
            Some(Type::Own(_)) => Self::Denied,
            _ => Self::Trap,
        }
    }
}

/// Defines every function of the imported interface `name` (of `wasi:filesystem` or `wasi:sockets`)
/// so that it answers no.
pub(in crate::plugin) fn deny(
    linker: &mut Linker<State>,
    engine: &Engine,
    name: &str,
    interface: &ComponentInstance,
) -> Result<()> {
    let mut instance = linker.instance(name)?;
    for (item, kind) in interface.exports(engine) {
        match kind.ty {
            ComponentItem::Resource(_) if !IO_RESOURCES.contains(&item) => {
                instance.resource(item, ResourceType::host::<Denied>(), |_, _| Ok(()))?;
            }
            ComponentItem::ComponentFunc(function) => {
                let answer = Answer::of(&function);
                let called = format!("{name}#{item}");
                instance.func_new(item, move |store, _, _, results| {
                    let value = match answer {
                        Answer::Error(case) => {
                            Val::Result(Err(Some(Box::new(Val::Enum(case.to_owned())))))
                        }
                        Answer::Nothing => Val::List(Vec::new()),
                        Answer::Denied => {
                            let denied = Resource::<Denied>::new_own(0);
                            Val::Resource(ResourceAny::try_from_resource(denied, store)?)
                        }
                        Answer::Trap => bail!("it called `{called}`, which plugins do not get"),
                    };
                    if let Some(result) = results.first_mut() {
                        *result = value;
                    }
                    Ok(())
                })?;
            }
            _ => {}
        }
    }
    Ok(())
}
