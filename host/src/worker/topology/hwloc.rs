//! Reads the topology with hwloc.
//!
//! hwloc knows more kinds of machines than `/sys` shows, corrects firmware that lies, and obeys
//! variables of its own, such as `HWLOC_XMLFILE` with the description of a machine that it gets
//! wrong. Workers sit on allowed CPUs only, whatever those variables say.
//!
//! Not here: which CPUs may be used. hwloc is asked for the whole machine.

use hwlocality::Topology as Hwloc;
use hwlocality::cpu::cpuset::CpuSet;
use hwlocality::object::TopologyObject;
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::{BuildFlags, TopologyBuilder};

use super::{CpuId, Found, Topology, assemble};

/// This machine's topology; `None` when hwloc fails or sees no CPU.
pub(super) fn read() -> Option<Topology> {
    convert(&builder().ok()?.build().ok()?)
}

/// The topology that a synthetic description stands for.
pub(super) fn synthetic(description: &str) -> anyhow::Result<Topology> {
    let hwloc = builder()?.from_synthetic(description)?.build()?;
    convert(&hwloc).ok_or_else(|| anyhow::anyhow!("`{description}` has no CPU"))
}

/// Asks for CPUs outside of this process's cgroup too: what is allowed is read separately, and
/// the topology must be the one that `/sys` shows.
fn builder() -> anyhow::Result<TopologyBuilder> {
    Ok(TopologyBuilder::new().with_flags(BuildFlags::INCLUDE_DISALLOWED)?)
}

fn convert(hwloc: &Hwloc) -> Option<Topology> {
    let nodes = Nodes::of(hwloc);
    let found: Vec<Found> = hwloc
        .objects_with_type(ObjectType::PU)
        .filter_map(|pu| {
            let id = pu.os_index()?;
            Some(Found { id, node: nodes.home_of(id)?, core: core_of(pu).unwrap_or(id) })
        })
        .collect();
    if found.is_empty() {
        return None;
    }

    let version = hwloc.root_object().info("hwlocVersion");
    let version = version.map_or("2".into(), |version| version.to_string_lossy());
    Some(Topology {
        nodes: assemble(nodes.0.iter().map(|(_, id, _)| *id), found),
        source: format!("hwloc {version}"),
    })
}

/// NUMA nodes as (number of CPUs near it, id, those CPUs), the most local first.
struct Nodes(Vec<(usize, usize, CpuSet)>);

impl Nodes {
    fn of(hwloc: &Hwloc) -> Self {
        let mut nodes: Vec<_> = hwloc
            .objects_with_type(ObjectType::NUMANode)
            .filter_map(|node| {
                let cpus = node.cpuset().map(|cpus| cpus.clone_target()).unwrap_or_default();
                Some((cpus.weight().unwrap_or(usize::MAX), node.os_index()?, cpus))
            })
            .collect();
        nodes.sort_by_key(|&(weight, id, _)| (weight, id));
        Self(nodes)
    }

    /// The node whose memory a CPU should use.
    ///
    /// hwloc counts a CPU to every memory near it, nodes without CPUs included (high-bandwidth
    /// or CXL memory). Its own node is the one that the fewest CPUs share; of two beside the
    /// same CPUs the lower id is the ordinary memory, because kernels number that first.
    fn home_of(&self, cpu: CpuId) -> Option<usize> {
        let near = |cpus: &CpuSet| cpus.iter_set().any(|index| usize::from(index) == cpu);
        self.0.iter().find(|(_, _, cpus)| near(cpus)).map(|&(_, id, _)| id)
    }
}

/// The lowest CPU on the core of `pu`.
fn core_of(pu: &TopologyObject) -> Option<CpuId> {
    let core = pu.first_ancestor_with_type(ObjectType::Core)?;
    Some(core.cpuset()?.first_set()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::topology::{Cpu, Node};

    #[test]
    fn synthetic_machines_of_one_to_eight_nodes_are_understood() {
        for nodes in [1, 2, 4, 8] {
            let topology = synthetic(&format!("NUMANode:{nodes} Core:2 PU:2")).unwrap();

            assert_eq!(topology.nodes.len(), nodes);
            for (id, node) in topology.nodes.iter().enumerate() {
                let first = id * 4;
                assert_eq!(node.id, id);
                assert_eq!(
                    node.cpus,
                    [
                        Cpu { id: first, core: first, sibling: 0 },
                        Cpu { id: first + 1, core: first, sibling: 1 },
                        Cpu { id: first + 2, core: first + 2, sibling: 0 },
                        Cpu { id: first + 3, core: first + 2, sibling: 1 },
                    ]
                );
            }
        }
    }

    /// The far memory of node 2 is near all CPUs; none of them belongs to it.
    #[test]
    fn a_memory_only_node_is_shown_and_has_no_cpu() {
        let description = "[NUMANode(indexes=2)] Package:2 [NUMANode(indexes=0,1)] Core:2 PU:1";

        let topology = synthetic(description).unwrap();

        let ids = |node: &Node| node.cpus.iter().map(|cpu| cpu.id).collect::<Vec<_>>();
        assert_eq!(
            topology.nodes.iter().map(ids).collect::<Vec<_>>(),
            [vec![0, 1], vec![2, 3], vec![]]
        );
    }

    #[test]
    fn a_description_that_makes_no_sense_is_an_error() {
        assert!(synthetic("no such machine").is_err());
    }
}
