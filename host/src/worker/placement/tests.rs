//! Tables of machines, and random ones.

use proptest::prelude::*;

use super::*;
use crate::config::{Acceptors, Io};
use crate::worker::topology::{Cpu, Node};

/// A machine by its nodes' (cores, CPUs per core), numbered as servers do: every core of every
/// node first, then the siblings.
fn machine(nodes: &[(usize, usize)]) -> Topology {
    let mut topology = Topology { nodes: Vec::new(), source: String::new() };
    topology.nodes.extend((0..nodes.len()).map(|id| Node { id, cpus: Vec::new() }));
    let widest = nodes.iter().map(|&(_, smt)| smt).max().unwrap_or(0);
    let mut id = 0;
    for sibling in 0..widest {
        let mut core = 0;
        for (node, &(cores, smt)) in topology.nodes.iter_mut().zip(nodes) {
            for _ in 0..cores {
                if sibling < smt {
                    node.cpus.push(Cpu { id, core, sibling });
                    id += 1;
                }
                core += 1;
            }
        }
    }
    topology
}

fn all(topology: &Topology) -> AllowedCpus {
    only(topology.cpus().map(|cpu| cpu.id))
}

fn only(cpus: impl IntoIterator<Item = CpuId>) -> AllowedCpus {
    AllowedCpus { cpus: cpus.into_iter().collect(), from: String::new() }
}

fn workers(count: Option<usize>) -> Workers {
    Workers { count, pin: true, acceptors: Acceptors::PerWorker, io: Io::Auto }
}

/// (node, CPU) of each worker.
fn placed(
    topology: &Topology,
    allowed: &AllowedCpus,
    quota: Option<f64>,
    count: Option<usize>,
) -> Vec<(usize, CpuId)> {
    let placed = place(topology, allowed, quota, &workers(count));
    assert!(placed.iter().map(|placement| placement.worker).eq(0..placed.len()));
    placed.iter().map(|placement| (placement.node, placement.cpu.unwrap())).collect()
}

/// How many workers each node has.
fn per_node(topology: &Topology, count: Option<usize>) -> Vec<usize> {
    let placed = placed(topology, &all(topology), None, count);
    let count = |id| placed.iter().filter(|&&(node, _)| node == id).count();
    topology.nodes.iter().map(|node| count(node.id)).collect()
}

#[test]
fn auto_is_one_worker_for_each_cpu_of_any_machine() {
    for (nodes, each) in [(1, (2, 1)), (1, (4, 2)), (2, (4, 2)), (4, (2, 2)), (8, (8, 2))] {
        let topology = machine(&vec![each; nodes]);

        assert_eq!(per_node(&topology, None), vec![each.0 * each.1; nodes]);
    }
}

#[test]
fn nodes_take_turns_and_cores_come_before_siblings() {
    let topology = machine(&[(2, 2), (2, 2)]);

    let placed = placed(&topology, &all(&topology), None, None);

    let cores = [(0, 0), (1, 2), (0, 1), (1, 3)];
    let siblings = [(0, 4), (1, 6), (0, 5), (1, 7)];
    assert_eq!(placed, [cores, siblings].concat());
}

#[test]
fn unequal_nodes_get_workers_in_proportion() {
    let topology = machine(&[(2, 1), (6, 1)]);
    for (count, expected) in [(1, [0, 1]), (2, [1, 1]), (4, [1, 3]), (8, [2, 6]), (16, [4, 12])] {
        assert_eq!(per_node(&topology, Some(count)), expected, "{count}");
    }
}

/// Node 0 has SMT and node 1 has not: no sibling of node 0 before the last core of node 1.
#[test]
fn a_sibling_waits_for_the_cores_of_every_node() {
    let topology = machine(&[(2, 2), (4, 1)]);

    assert_eq!(per_node(&topology, Some(6)), [2, 4]);
    assert_eq!(per_node(&topology, Some(7)), [3, 4]);
}

#[test]
fn nodes_of_memory_alone_get_no_worker() {
    let topology = machine(&[(0, 0), (2, 1), (0, 0), (2, 1)]);

    assert_eq!(per_node(&topology, None), [0, 2, 0, 2]);
    assert_eq!(per_node(&topology, Some(9)), [0, 5, 0, 4]);
}

#[test]
fn a_mask_that_leaves_one_cpu_leaves_one_worker() {
    let topology = machine(&[(2, 2), (2, 2)]);

    assert_eq!(placed(&topology, &only([6]), None, None), [(1, 6)]);
}

/// CPU 4 is the second of its core on the machine, but the first that may be used.
#[test]
fn a_sibling_whose_core_is_forbidden_counts_as_a_core() {
    let topology = machine(&[(4, 2)]);

    assert_eq!(placed(&topology, &only([1, 4, 5]), None, Some(2)), [(0, 4), (0, 1)]);
}

#[test]
fn a_quota_limits_auto_to_the_next_whole_number() {
    let topology = machine(&[(4, 1)]);
    for (quota, expected) in [
        (None, 4),
        (Some(0.01), 1),
        (Some(0.5), 1),
        (Some(1.0), 1),
        (Some(1.5), 2),
        (Some(4.0), 4),
        (Some(64.0), 4),
    ] {
        let placed = place(&topology, &all(&topology), quota, &workers(None));
        assert_eq!(placed.len(), expected, "{quota:?}");
    }
}

#[test]
fn a_number_in_the_configuration_overrides_the_quota() {
    let topology = machine(&[(4, 1)]);

    assert_eq!(placed(&topology, &all(&topology), Some(0.5), Some(3)).len(), 3);
}

#[test]
fn more_workers_than_cpus_share_them_evenly() {
    let topology = machine(&[(1, 1), (1, 1)]);

    assert_eq!(
        placed(&topology, &all(&topology), None, Some(5)),
        [(0, 0), (1, 1), (0, 0), (1, 1), (0, 0)]
    );
}

#[test]
fn without_pinning_no_worker_has_a_cpu() {
    let topology = machine(&[(2, 1), (2, 1)]);
    let unpinned = Workers { pin: false, ..workers(None) };

    let placed = place(&topology, &all(&topology), None, &unpinned);

    assert_eq!(
        placed.iter().map(|p| (p.cpu, p.node)).collect::<Vec<_>>(),
        [(None, 0), (None, 1), (None, 0), (None, 1)]
    );
}

#[test]
fn allowed_cpus_that_the_topology_does_not_know_are_used_all_the_same() {
    let topology = machine(&[(0, 0), (1, 1)]);

    assert_eq!(placed(&topology, &only([0, 40]), None, None), [(1, 0), (1, 40)]);
    assert_eq!(placed(&machine(&[]), &only([3]), None, None), [(0, 3)]);
}

/// Numbers with holes: kernels give them out so when nodes are memory alone, or boards are missing.
#[test]
fn nodes_and_cpus_may_have_any_numbers() {
    let cpu = |id, core| Cpu { id, core, sibling: usize::from(id != core) };
    let topology = Topology {
        nodes: vec![
            Node { id: 3, cpus: vec![cpu(5, 5), cpu(9, 9)] },
            Node { id: 8, cpus: vec![] },
            Node { id: 252, cpus: vec![cpu(6, 6), cpu(64, 6), cpu(70, 70), cpu(71, 70)] },
        ],
        source: String::new(),
    };

    let seats = placed(&topology, &all(&topology), None, None);
    let narrowed = placed(&topology, &only([9, 64, 71, 70]), None, None);

    assert_eq!(seats, [(3, 5), (252, 6), (3, 9), (252, 70), (252, 64), (252, 71)]);
    assert_eq!(narrowed, [(252, 64), (3, 9), (252, 70), (252, 71)]);
}

/// A CPU that is switched off stands in no node's list; its sibling is a core of its own then.
#[test]
fn offline_cpus_get_no_worker_even_if_the_mask_has_them() {
    let mut topology = machine(&[(2, 2), (2, 2)]);
    for node in &mut topology.nodes {
        node.cpus.retain(|cpu| ![1, 2, 6].contains(&cpu.id));
    }

    let allowed = only([0, 3, 4, 5, 7]);

    assert_eq!(placed(&topology, &allowed, None, None), [(0, 0), (1, 3), (0, 5), (0, 4), (1, 7)]);
}

#[test]
fn each_node_with_workers_has_one_acceptor_on_all_of_its_cpus() {
    let dedicated =
        |count, pin| Workers { count, pin, acceptors: Acceptors::Dedicated, io: Io::Auto };
    let machine = |allowed| Machine { topology: machine(&[(2, 2), (2, 2)]), allowed, quota: None };
    let on = |machine: &Machine, workers: &Workers| {
        let placed = place(&machine.topology, &machine.allowed, None, workers);
        let acceptors = acceptors(machine, workers, &placed);
        acceptors.into_iter().map(|place| (place.node, place.cpus)).collect::<Vec<_>>()
    };
    let whole = machine(only(0..8));

    assert_eq!(on(&whole, &workers(None)), []);
    assert_eq!(
        on(&whole, &dedicated(None, true)),
        [(0, Some(vec![0, 1, 4, 5])), (1, Some(vec![2, 3, 6, 7]))]
    );
    assert_eq!(on(&whole, &dedicated(Some(1), true)), [(0, Some(vec![0, 1, 4, 5]))]);
    assert_eq!(on(&whole, &dedicated(None, false)), [(0, None), (1, None)]);
    assert_eq!(
        on(&machine(only([5, 6])), &dedicated(None, true)),
        [(0, Some(vec![5])), (1, Some(vec![6]))]
    );
}

#[test]
fn there_is_always_a_worker() {
    let topology = machine(&[(1, 1)]);

    let nothing_allowed = place(&topology, &only([]), None, &workers(None));
    let none_wanted = place(&topology, &only([0]), None, &workers(Some(0)));

    assert_eq!(nothing_allowed, [Placement { worker: 0, cpu: None, node: 0 }]);
    assert_eq!(none_wanted, [Placement { worker: 0, cpu: Some(0), node: 0 }]);
}

#[cfg(feature = "hwloc")]
#[test]
fn synthetic_machines_of_hwloc_are_filled_evenly() {
    for nodes in [1, 2, 4, 8] {
        let topology = Topology::from_synthetic(&format!("NUMANode:{nodes} Core:2 PU:2")).unwrap();

        assert_eq!(per_node(&topology, Some(nodes)), vec![1; nodes]);
        assert_eq!(per_node(&topology, Some(nodes * 2)), vec![2; nodes]);
        assert_eq!(per_node(&topology, None), vec![4; nodes]);
        let firsts = placed(&topology, &all(&topology), None, Some(nodes * 2));
        assert!(firsts.iter().all(|(_, cpu)| cpu % 2 == 0), "a sibling came first: {firsts:?}");
    }
}

/// A machine of up to 8 nodes, some without CPUs.
fn any_machine() -> impl Strategy<Value = Topology> {
    prop::collection::vec((0_usize..6, 1_usize..=4), 1..=8).prop_map(|nodes| machine(&nodes))
}

proptest! {
    #[test]
    fn only_allowed_cpus_are_used_and_none_twice_without_need(
        topology in any_machine(),
        mask in prop::collection::btree_set(0_usize..200, 1..64),
        quota in prop::option::of(0.01_f64..80.0),
        count in prop::option::of(1_usize..200),
    ) {
        let allowed = only(mask);

        let placed = placed(&topology, &allowed, quota, count);

        let used: BTreeSet<CpuId> = placed.iter().map(|&(_, cpu)| cpu).collect();
        prop_assert!(!placed.is_empty());
        prop_assert!(used.is_subset(&allowed.cpus));
        prop_assert_eq!(used.len(), placed.len().min(allowed.cpus.len()));
        for (node, cpu) in placed {
            let home = topology.nodes.iter().find(|n| n.cpus.iter().any(|c| c.id == cpu));
            prop_assert!(home.is_none_or(|home| home.id == node));
        }
    }

    #[test]
    fn no_core_gets_a_second_worker_before_each_has_one(
        topology in any_machine(),
        mask in prop::collection::btree_set(0_usize..200, 1..64),
        count in 1_usize..200,
    ) {
        let core_of: BTreeMap<CpuId, CpuId> =
            topology.cpus().map(|cpu| (cpu.id, cpu.core)).collect();
        let allowed = only(mask.into_iter().filter(|cpu| core_of.contains_key(cpu)));
        prop_assume!(!allowed.cpus.is_empty());
        let cores: BTreeSet<CpuId> = allowed.cpus.iter().map(|cpu| core_of[cpu]).collect();

        let placed = placed(&topology, &allowed, None, Some(count));

        let busy: BTreeSet<CpuId> = placed.iter().map(|(_, cpu)| core_of[cpu]).collect();
        prop_assert_eq!(busy.len(), count.min(cores.len()));
    }

    #[test]
    fn equal_nodes_differ_by_one_worker_at_most(
        nodes in 1_usize..=8,
        cores in 1_usize..=8,
        smt in 1_usize..=4,
        count in 1_usize..400,
    ) {
        let topology = machine(&vec![(cores, smt); nodes]);

        let counts = per_node(&topology, Some(count));

        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{counts:?}");
    }
}
