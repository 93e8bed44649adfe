//! How much of the process an instance may take.

use wasmtime::ResourceLimiter;

/// Elements of all tables together. A large interpreter has some 20,000; each costs 8 to 16 bytes.
const TABLE_ELEMENTS_MAX: usize = 256 * 1024;

/// Core instances, and tables, of one component. An interpreter with its adapter has about 20.
const INSTANCES_MAX: usize = 100;

/// Memories of one component. Each reserves address space for 4 GiB, of which there are 128 TiB
/// for all instances of the process.
const MEMORIES_MAX: usize = 8;

/// Counts what an instance takes, and refuses more than its share.
///
/// What was counted is never given back, even when the system then refuses the memory: wasmtime
/// reports failures of growths that it never asked about too, and a guest must not be able
/// to talk the count down.
pub(in crate::plugin) struct Limiter {
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
    refused: bool,
}

impl Limiter {
    pub(super) fn new(memory_bytes_max: usize) -> Self {
        Self { memory_bytes: 0, memory_bytes_max, table_elements: 0, refused: false }
    }

    /// Linear memory of the instance, all its memories together.
    pub(in crate::plugin) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Whether memory was refused in this call.
    pub(in crate::plugin) fn refused(&self) -> bool {
        self.refused
    }

    /// To be called before each call: a guest that survived a refusal may trap for another reason.
    pub(in crate::plugin) fn forget_refused(&mut self) {
        self.refused = false;
    }
}

impl ResourceLimiter for Limiter {
    /// Refuses by answering no, not by a trap: `memory.grow` then returns -1, and a guest with
    /// a garbage collector can collect and go on.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // The type forbids it: answered here, so that it is not counted.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let added = desired.saturating_sub(current);
        if self.memory_bytes.saturating_add(added) > self.memory_bytes_max {
            self.refused = true;
            return Ok(false);
        }
        self.memory_bytes += added;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let added = desired.saturating_sub(current);
        if self.table_elements.saturating_add(added) > TABLE_ELEMENTS_MAX {
            return Ok(false);
        }
        self.table_elements += added;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}
