//! Bodies on their way through a chain: who is shown what, and what becomes of it.
//!
//! ```text
//!   sender ─► chunk ─► link ─► link ─► link ─► receiver          (streamed)
//!   sender ─► chunk ─► link ─► held … all of it ─► link ─► again a sender, for the links behind it
//! ```
//!
//! What a plugin asks for in its head hook is its [`Wish`]. A wish to see the whole body, or to put
//! another one in its place, halts the chain ([`Halt`]): the plugins behind it are not called before
//! that is done. All others are collected in a [`BodyFilter`], which whoever moves the body asks about
//! each chunk. Nothing here waits or reads.
//!
//! Not here: sockets and framing (`proxy`), and calling a plugin (`live`).

use std::borrow::Cow;
use std::rc::Rc;

use super::chain::Link;
use super::exchange::Exchange;
use super::instance::Hook;

/// The largest body that a plugin may hold or put in place of another.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The largest part of a body that is shown at a time.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// What may become of one chunk on its way through a chain, if every plugin makes more of it.
const GROWN_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;

/// What a plugin asks for in a head hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To be shown nothing.
    Skip,
    /// To be shown each chunk, and to change none.
    Observe,
    /// To be shown all of it at once, up to so many bytes.
    Hold(usize),
    /// To put this in its place.
    Replace(Vec<u8>),
}

/// What a plugin says of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkFlow {
    /// It goes on as it is.
    Pass,
    /// This goes on in its place.
    Replace(Vec<u8>),
    /// Nothing goes on.
    Drop,
    /// It goes on, and no more of this message is shown to this plugin.
    Detach,
    /// The message is to be broken off.
    Abort,
}

/// How a body is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Showing {
    /// Chunk by chunk, to be changed.
    Chunks,
    /// Chunk by chunk, only to be looked at.
    Glance,
    /// All at once, before its head is sent.
    Whole,
}

/// Why a chain has stopped in the middle.
#[derive(Debug)]
pub struct Halt {
    /// At this link.
    pub link: usize,
    /// What it waits for; `None`: its head hook is still to be called, and may wait.
    pub wish: Option<Wish>,
}

/// Why a body goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyStop {
    /// A plugin says so. Its answer is in the exchange, if it has made one in time.
    Aborted,
    /// A plugin failed whose failures are not overlooked: how, for those who test it.
    Failed(String),
}

/// A link that is shown a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    pub(super) link: usize,
    pub(super) showing: Showing,
    /// It is shown no more.
    pub(super) detached: bool,
}

/// Shows a body to those links of a chain that want to see it, in their order.
pub struct BodyFilter {
    links: Rc<[Link]>,
    hook: Hook,
    stages: Vec<Stage>,
}

impl std::fmt::Debug for BodyFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyFilter").field("stages", &self.stages).finish_non_exhaustive()
    }
}

impl BodyFilter {
    /// `None` when nobody wants to see it.
    pub(super) fn new(links: &Rc<[Link]>, hook: Hook, stages: Vec<Stage>) -> Option<Box<Self>> {
        let links = Rc::clone(links);
        (!stages.is_empty()).then(|| Box::new(Self { links, hook, stages }))
    }

    /// Whether what goes on is as long as what came.
    pub fn keeps_length(&self) -> bool {
        self.stages.iter().all(|stage| stage.showing == Showing::Glance)
    }

    /// Whether nobody wants to see more.
    pub fn is_idle(&self) -> bool {
        self.stages.is_empty()
    }

    /// Shows a chunk and adds what goes on to `out`. `end`: nothing comes after it.
    pub fn show(
        &mut self,
        place: &mut Option<Box<Exchange>>,
        chunk: &[u8],
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), BodyStop> {
        let room = out.len() + chunk.len().max(GROWN_BYTES_MAX);
        let shown = self.show_from(0, place, chunk, end, out, room);
        self.stages.retain(|stage| !stage.detached);
        shown
    }

    fn show_from(
        &mut self,
        at: usize,
        place: &mut Option<Box<Exchange>>,
        chunk: &[u8],
        end: bool,
        out: &mut Vec<u8>,
        room: usize,
    ) -> Result<(), BodyStop> {
        let Some(stage) = self.stages.get(at).copied() else {
            if out.len() + chunk.len() > room {
                let told = format!(
                    "plugins made more than {GROWN_BYTES_MAX} bytes of one chunk of a body"
                );
                log::warn!(target: "plugin", "{told}");
                return Err(BodyStop::Failed(told));
            }
            out.extend_from_slice(chunk);
            return Ok(());
        };
        let Some(link) = self.links.get(stage.link) else {
            return Err(BodyStop::Failed("its chain is another one".to_owned()));
        };
        // One that has detached keeps its place until the chunk is through.
        let flow = match stage.detached {
            true => ChunkFlow::Pass,
            false => link.show(self.hook, place, (chunk, end), stage.showing)?,
        };
        let next: Cow<'_, [u8]> = match flow {
            ChunkFlow::Pass => chunk.into(),
            ChunkFlow::Detach => {
                self.stages[at].detached = true;
                chunk.into()
            }
            ChunkFlow::Drop => (&[]).into(),
            ChunkFlow::Replace(bytes) => bytes.into(),
            ChunkFlow::Abort => return Err(BodyStop::Aborted),
        };
        if next.is_empty() && !end {
            return Ok(());
        }
        let mut rest = &*next;
        loop {
            let (shown, behind) = rest.split_at(rest.len().min(CHUNK_BYTES_MAX));
            rest = behind;
            self.show_from(at + 1, place, shown, end && rest.is_empty(), out, room)?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }
}
