//! The machine as workers see it: NUMA nodes, their CPUs, and which of those may be used.
//!
//! Layout: `hwloc` and `sysfs` each read the same [`Topology`], by the hwloc library (feature
//! `hwloc`) or from `/sys`; `allowed` reads what the affinity mask and the cgroup leave to this
//! process. A topology is plain data about the whole machine, whatever this process may use of
//! it, so tests describe machines that nobody has.
//!
//! Nothing here can stop a start: what cannot be read is assumed (one node, every CPU a core of
//! its own), and [`Topology::source`] says so.
//!
//! Not here: who sits where (`placement`), and binding a thread to a CPU (`sys`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::sys;

pub mod allowed;
#[cfg(feature = "hwloc")]
mod hwloc;
mod sysfs;

pub use allowed::{AllowedCpus, Quota};

/// CPU numbers above this are taken for garbage. Linux is built for 8,192 CPUs at most today; the
/// rest is room. Without a limit a broken list such as `0-4294967295` would fill the memory.
const CPU_ID_MAX: usize = 65_535;

/// Where Linux describes its CPUs and nodes.
const SYS: &str = "/sys/devices/system";

/// A CPU number as the operating system counts them.
pub type CpuId = usize;

/// The machine and what this process may use of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Nodes and CPUs of the whole machine.
    pub topology: Topology,
    /// The CPUs that this process may run on.
    pub allowed: AllowedCpus,
    /// How much CPU time this process gets; `None`: as much as there is.
    pub quota: Option<Quota>,
}

impl Machine {
    /// Reads the machine that this process runs on. Takes some milliseconds and never fails.
    ///
    /// To be called before any thread is pinned: the affinity mask is that of the caller.
    #[must_use]
    pub fn read() -> Self {
        let root = Path::new("/");
        let allowed = allowed::read_cpus(root, sys::affinity().ok());
        Self { topology: Topology::read(&allowed.cpus), allowed, quota: allowed::read_quota(root) }
    }
}

/// The NUMA nodes of a machine and their CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// At least one, in the order of their ids. A node may have memory and no CPU.
    pub nodes: Vec<Node>,
    /// Who says so, for people: `hwloc 2.9.0`, `/sys`, or `assumed`.
    pub source: String,
}

/// A NUMA node: some CPUs and the memory that is close to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// The operating system's number.
    pub id: usize,
    /// CPUs that are online, in the order of their ids. Empty for a node of memory alone.
    pub cpus: Vec<Cpu>,
}

/// What the operating system calls a CPU: one hardware thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// The operating system's number.
    pub id: CpuId,
    /// The physical core, named by the lowest CPU that is on it: unique on the whole machine,
    /// where the numbers that kernels give to cores repeat in every socket.
    pub core: CpuId,
    /// 0 for the first CPU of its core, 1 for the next (its SMT sibling), and so on.
    pub sibling: usize,
}

impl Topology {
    /// Reads this machine's topology; `cpus` stand in for it where nothing can be read.
    #[must_use]
    pub fn read(cpus: &BTreeSet<CpuId>) -> Self {
        #[cfg(feature = "hwloc")]
        if let Some(topology) = hwloc::read() {
            return topology;
        }
        Self::from_sys(Path::new(SYS)).unwrap_or_else(|| Self::assumed(cpus))
    }

    /// Reads a tree laid out like `/sys/devices/system`; `None` when it names no CPU.
    #[must_use]
    pub fn from_sys(root: &Path) -> Option<Self> {
        Some(Self { nodes: sysfs::read(root)?, source: "/sys".to_owned() })
    }

    /// The topology that hwloc makes of a description such as `NUMANode:4 Core:2 PU:2`.
    ///
    /// # Errors
    ///
    /// hwloc does not understand the description.
    #[cfg(feature = "hwloc")]
    pub fn from_synthetic(description: &str) -> anyhow::Result<Self> {
        hwloc::synthetic(description)
    }

    /// One node with these CPUs, each a core of its own.
    #[must_use]
    pub fn assumed(cpus: &BTreeSet<CpuId>) -> Self {
        let found = cpus.iter().map(|&id| Found { id, node: 0, core: id });
        Self { nodes: assemble([0], found), source: "assumed".to_owned() }
    }

    /// All CPUs of the machine.
    pub fn cpus(&self) -> impl Iterator<Item = &Cpu> {
        self.nodes.iter().flat_map(|node| &node.cpus)
    }
}

/// A CPU as the readers find it.
struct Found {
    id: CpuId,
    node: usize,
    core: CpuId,
}

/// Sorts what was found into nodes. A CPU found twice stays where it was found first.
fn assemble(
    nodes: impl IntoIterator<Item = usize>,
    found: impl IntoIterator<Item = Found>,
) -> Vec<Node> {
    let mut cpus = BTreeMap::new();
    for cpu in found {
        cpus.entry(cpu.id).or_insert(cpu);
    }

    let mut nodes: BTreeMap<usize, Vec<Cpu>> =
        nodes.into_iter().map(|id| (id, Vec::new())).collect();
    let mut siblings = BTreeMap::new();
    for Found { id, node, core } in cpus.into_values() {
        let next: &mut usize = siblings.entry(core).or_default();
        nodes.entry(node).or_default().push(Cpu { id, core, sibling: *next });
        *next += 1;
    }
    nodes.into_iter().map(|(id, cpus)| Node { id, cpus }).collect()
}

/// Reads a list as the kernel writes them, `0-3,8,10-11`. An empty text is an empty set, a
/// malformed one is `None`.
#[must_use]
pub fn parse_cpu_list(text: &str) -> Option<BTreeSet<CpuId>> {
    let number = |text: &str| text.parse().ok().filter(|&id: &CpuId| id <= CPU_ID_MAX);
    let mut cpus = BTreeSet::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(number(first)?..=number(last)?);
    }
    Some(cpus)
}

/// Writes a set the way the kernel does: `0-3,8,10-11`.
#[must_use]
pub fn format_cpu_list(cpus: impl IntoIterator<Item = CpuId>) -> String {
    let mut cpus = cpus.into_iter().peekable();
    let mut list = String::new();
    while let Some(start) = cpus.next() {
        let mut end = start;
        while let Some(next) = cpus.next_if(|&next| next == end + 1) {
            end = next;
        }
        let comma = if list.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = if end == start {
            write!(list, "{comma}{start}")
        } else {
            write!(list, "{comma}{start}-{end}")
        };
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read_and_written_as_the_kernel_does() {
        for (text, cpus) in [
            ("", vec![]),
            ("0", vec![0]),
            ("0-3", vec![0, 1, 2, 3]),
            ("0-1,4,6-8", vec![0, 1, 4, 6, 7, 8]),
        ] {
            let parsed = parse_cpu_list(&format!("{text}\n")).unwrap();

            assert_eq!(parsed, BTreeSet::from_iter(cpus));
            assert_eq!(format_cpu_list(parsed), text);
        }
    }

    #[test]
    fn garbage_and_boundless_cpu_lists_are_refused() {
        for text in ["x", "1-", "-1", "0-4294967295", "1;2", "0-3-5", "99999999999999999999999"] {
            assert_eq!(parse_cpu_list(text), None, "{text}");
        }
    }

    #[test]
    fn a_machine_that_cannot_be_read_is_one_node_of_the_allowed_cpus() {
        let topology = Topology::assumed(&BTreeSet::from([2, 5]));

        assert_eq!(
            topology.nodes,
            [Node {
                id: 0,
                cpus: vec![Cpu { id: 2, core: 2, sibling: 0 }, Cpu { id: 5, core: 5, sibling: 0 }],
            }]
        );
    }

    /// Two readers, one truth: whoever builds without hwloc must not get other workers.
    #[cfg(all(feature = "hwloc", target_os = "linux"))]
    #[test]
    fn hwloc_and_sys_agree_about_this_machine() {
        let by_hwloc = hwloc::read().unwrap();
        let by_sys = Topology::from_sys(Path::new(SYS)).unwrap();

        assert_eq!(by_hwloc.nodes, by_sys.nodes);
        assert!(by_hwloc.source.starts_with("hwloc 2."), "{}", by_hwloc.source);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_every_cpu_that_this_process_may_use() {
        let machine = Machine::read();

        let known: BTreeSet<CpuId> = machine.topology.cpus().map(|cpu| cpu.id).collect();
        assert!(!machine.allowed.cpus.is_empty());
        assert!(machine.allowed.cpus.is_subset(&known), "{machine:?}");
    }
}
