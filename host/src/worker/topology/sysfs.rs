//! Reads the topology from a tree laid out like `/sys/devices/system`.
//!
//! ```text
//! cpu/online                              0-3         required: the CPUs there are
//! cpu/cpu0/topology/core_cpus_list        0,2         else thread_siblings_list, else alone
//! node/node0/cpulist                      0-1         else all CPUs are on node 0
//! ```
//!
//! Containers and sandboxes show parts of this or none; each part that is missing or malformed
//! is replaced by the simplest machine that fits the rest.
//!
//! Not here: which of the CPUs may be used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{CpuId, Found, Node, assemble, parse_cpu_list};

/// The nodes of the tree at `root`; `None` when it names no CPU.
pub(super) fn read(root: &Path) -> Option<Vec<Node>> {
    let online = read_list(&root.join("cpu/online")).filter(|cpus| !cpus.is_empty())?;
    let nodes = read_nodes(&root.join("node"), &online);
    let mut homes = BTreeMap::new();
    for (&node, cpus) in &nodes {
        for &cpu in cpus {
            homes.entry(cpu).or_insert(node);
        }
    }
    // A CPU that no node claims gets the first one that has CPUs: memory is there at least.
    let first = nodes.iter().find(|(_, cpus)| !cpus.is_empty()).map_or(0, |(&id, _)| id);

    let found = online.iter().map(|&id| Found {
        id,
        node: homes.get(&id).copied().unwrap_or(first),
        core: core_of(root, id, &online),
    });
    Some(assemble(nodes.keys().copied(), found))
}

/// Every node with those of its CPUs that are online.
fn read_nodes(root: &Path, online: &BTreeSet<CpuId>) -> BTreeMap<usize, BTreeSet<CpuId>> {
    let Ok(entries) = fs::read_dir(root) else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            let cpus = read_list(&entry.path().join("cpulist")).unwrap_or_default();
            Some((id, cpus.intersection(online).copied().collect()))
        })
        .collect()
}

/// The lowest online CPU that shares a physical core with `cpu`.
fn core_of(root: &Path, cpu: CpuId, online: &BTreeSet<CpuId>) -> CpuId {
    let topology = root.join(format!("cpu/cpu{cpu}/topology"));
    // The first name came with Linux 5.3 and says what it means; the second is its old name.
    ["core_cpus_list", "thread_siblings_list"]
        .iter()
        .find_map(|name| read_list(&topology.join(name)))
        .and_then(|siblings| siblings.intersection(online).next().copied())
        .map_or(cpu, |first| first.min(cpu))
}

fn read_list(path: &Path) -> Option<BTreeSet<CpuId>> {
    parse_cpu_list(&fs::read_to_string(path).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::topology::Cpu;

    /// Writes a tree from (path, content) pairs.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{content}\n")).unwrap();
        }
        root
    }

    fn cpu(id: CpuId, core: CpuId, sibling: usize) -> Cpu {
        Cpu { id, core, sibling }
    }

    /// The way servers number CPUs: first every core once, then all siblings.
    #[test]
    fn two_nodes_with_smt_are_read() {
        let root = tree(&[
            ("cpu/online", "0-7"),
            ("cpu/cpu0/topology/core_cpus_list", "0,4"),
            ("cpu/cpu1/topology/core_cpus_list", "1,5"),
            ("cpu/cpu2/topology/core_cpus_list", "2,6"),
            ("cpu/cpu3/topology/core_cpus_list", "3,7"),
            ("cpu/cpu4/topology/core_cpus_list", "0,4"),
            ("cpu/cpu5/topology/core_cpus_list", "1,5"),
            ("cpu/cpu6/topology/thread_siblings_list", "2,6"),
            ("cpu/cpu7/topology/thread_siblings_list", "3,7"),
            ("node/node0/cpulist", "0-1,4-5"),
            ("node/node1/cpulist", "2-3,6-7"),
            ("node/possible", "0-1"),
        ]);

        let nodes = read(root.path()).unwrap();

        let expected = |id, cpus| Node { id, cpus };
        assert_eq!(
            nodes,
            [
                expected(0, vec![cpu(0, 0, 0), cpu(1, 1, 0), cpu(4, 0, 1), cpu(5, 1, 1)]),
                expected(1, vec![cpu(2, 2, 0), cpu(3, 3, 0), cpu(6, 2, 1), cpu(7, 3, 1)]),
            ]
        );
    }

    #[test]
    fn offline_cpus_and_memory_only_nodes_have_no_cpus() {
        let root = tree(&[
            ("cpu/online", "0,3"),
            ("cpu/cpu3/topology/core_cpus_list", "2-3"),
            ("node/node0/cpulist", "0-3"),
            ("node/node8/cpulist", ""),
        ]);

        let nodes = read(root.path()).unwrap();

        assert_eq!(
            nodes,
            [Node { id: 0, cpus: vec![cpu(0, 0, 0), cpu(3, 3, 0)] }, Node { id: 8, cpus: vec![] }]
        );
    }

    #[test]
    fn what_a_sandbox_hides_is_replaced_by_the_simplest_machine() {
        let bare = tree(&[("cpu/online", "0-1")]);
        let odd = tree(&[
            ("cpu/online", "0-1"),
            ("cpu/cpu0/topology/core_cpus_list", "ffff,x"),
            ("cpu/cpu1/topology/core_cpus_list", "7"),
            ("node/node0/cpulist", "garbage"),
            ("node/nodeX/cpulist", "0"),
        ]);

        for root in [bare, odd] {
            let nodes = read(root.path()).unwrap();
            assert_eq!(nodes, [Node { id: 0, cpus: vec![cpu(0, 0, 0), cpu(1, 1, 0)] }]);
        }
    }

    #[test]
    fn a_cpu_of_no_node_joins_one_that_has_cpus_and_a_cpu_of_two_stays_in_the_first() {
        let root = tree(&[
            ("cpu/online", "0-3"),
            ("node/node0/cpulist", ""),
            ("node/node1/cpulist", "0-1"),
            ("node/node2/cpulist", "1-2"),
        ]);

        let nodes = read(root.path()).unwrap();

        let ids = |node: &Node| node.cpus.iter().map(|cpu| cpu.id).collect::<Vec<_>>();
        assert_eq!(nodes.iter().map(ids).collect::<Vec<_>>(), [vec![], vec![0, 1, 3], vec![2]]);
    }

    #[test]
    fn a_tree_without_cpus_is_no_topology() {
        assert_eq!(read(tree(&[]).path()), None);
        assert_eq!(read(tree(&[("cpu/online", "")]).path()), None);
        assert_eq!(read(tree(&[("cpu/online", "many")]).path()), None);
    }
}
