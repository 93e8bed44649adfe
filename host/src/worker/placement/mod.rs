//! Which worker sits where: topology × allowed CPUs × configuration → workers.
//!
//! The rule, and why:
//!
//! 1. *One worker for each allowed CPU*, unless the configuration gives a number. A CPU quota
//!    lowers it to the next whole number: more workers than CPUs' worth of time would use the
//!    quota up early in every period and then all stand still together.
//! 2. *Physical cores before SMT siblings.* Two workers on one core share its caches and
//!    execution units and get little more done than one, so the second CPU of a core is taken
//!    when every core has a worker. What counts is the CPUs that are allowed: if the mask leaves
//!    only the sibling of a core, that is its first.
//! 3. *Nodes in proportion to their cores.* Workers share nothing that is written for a request,
//!    so there is no reason to keep them close, and every node adds memory bandwidth and cache.
//!    Proportions are rounded by the odd-number (Sainte-Laguë) rule: CPU `i` of a node's `n`
//!    comes at (2i+1)/n. Equal nodes take turns; a small node gets its first worker when half of
//!    a worker is due to it, neither first nor last.
//! 4. *More workers than CPUs* start again from the first seat, so CPUs and nodes stay even.
//!
//! All of it is a pure function, [`place`]; [`report`] shows the outcome to people and programs.
//!
//! Not here: reading the machine (`topology`), pinning (`sys`).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::topology::{AllowedCpus, CpuId, Machine, Topology, format_cpu_list};
use crate::config::{Acceptors, Workers};

pub mod report;

/// Where one worker sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// The worker's number, from 0.
    pub worker: usize,
    /// The CPU to stay on; `None`: wherever the scheduler puts it.
    pub cpu: Option<CpuId>,
    /// The NUMA node of that CPU.
    pub node: usize,
}

/// Decides how many workers there are and where each one sits. At least one.
#[must_use]
pub fn place(
    topology: &Topology,
    allowed: &AllowedCpus,
    quota: Option<f64>,
    workers: &Workers,
) -> Vec<Placement> {
    let seats = seats(topology, &allowed.cpus);
    let count = workers.count.unwrap_or_else(|| useful_count(seats.len(), quota)).max(1);
    let nowhere = Seat { node: first_node(topology), cpu: None };
    let seats = if seats.is_empty() { vec![nowhere] } else { seats };
    seats
        .iter()
        .cycle()
        .take(count)
        .enumerate()
        .map(|(worker, seat)| Placement {
            worker,
            cpu: seat.cpu.filter(|_| workers.pin),
            node: seat.node,
        })
        .collect()
}

/// Where one acceptor sits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AcceptorPlace {
    /// The NUMA node of the workers that it deals to.
    pub node: usize,
    /// The CPUs to stay on; `None`: wherever the scheduler puts it.
    pub cpus: Option<Vec<CpuId>>,
}

/// Decides where acceptors sit: one for each node that has workers, on any of the allowed CPUs of the
/// node, since it works in short moments and a CPU of its own would mostly idle. None unless they are
/// wanted.
#[must_use]
pub fn acceptors(machine: &Machine, workers: &Workers, placed: &[Placement]) -> Vec<AcceptorPlace> {
    if workers.acceptors != Acceptors::Dedicated {
        return Vec::new();
    }
    let mut nodes = allowed_cores(&machine.topology, &machine.allowed.cpus);
    let used: BTreeSet<usize> = placed.iter().map(|placement| placement.node).collect();
    let place = |node| {
        let cpus = nodes.remove(&node).filter(|_| workers.pin);
        let cpus = cpus.map(|cores| cores.into_values().flatten().collect::<BTreeSet<CpuId>>());
        AcceptorPlace { node, cpus: cpus.map(|cpus| cpus.into_iter().collect()) }
    };
    used.into_iter().map(place).collect()
}

/// What people should know about a number of workers that they asked for.
#[must_use]
pub fn warnings(machine: &Machine, workers: &Workers, placed: &[Placement]) -> Vec<String> {
    let (count, cpus) = (placed.len(), machine.allowed.cpus.len());
    let mut warnings = Vec::new();
    if count > cpus {
        let list = format_cpu_list(machine.allowed.cpus.iter().copied());
        warnings.push(format!(
            "{count} workers share CPU {list} and wait for each other; write `\"workers\": {cpus}` \
             or `\"auto\"`"
        ));
    }
    if let Some(quota) = &machine.quota {
        let useful = useful_count(cpus, Some(quota.cpus));
        if workers.count.is_some() && count > useful {
            warnings.push(format!(
                "{count} workers for a quota of {} CPUs ({}): all of them stand still whenever it \
                 is used up; write `\"workers\": {useful}` or `\"auto\"`",
                quota.cpus, quota.from
            ));
        }
    }
    warnings
}

/// As many workers as there are CPUs, or CPUs' worth of time, rounded up; at least one.
fn useful_count(cpus: usize, quota: Option<f64>) -> usize {
    let Some(quota) = quota else { return cpus.max(1) };
    // Worker `n` is of use when the `n` before it leave some of the quota.
    (0..cpus).zip(0_u32..).filter(|&(_, before)| f64::from(before) < quota).count().max(1)
}

#[derive(Clone, Copy)]
struct Seat {
    node: usize,
    cpu: Option<CpuId>,
}

/// Every allowed CPU once, the best seat first.
fn seats(topology: &Topology, allowed: &BTreeSet<CpuId>) -> Vec<Seat> {
    let nodes = allowed_cores(topology, allowed);
    let mut seats = Vec::with_capacity(allowed.len());
    for tier in 0.. {
        // The CPUs of this tier: of each core the first, then of each the second, …
        let pools: Vec<(usize, Vec<CpuId>)> = nodes
            .iter()
            .map(|(&node, cores)| {
                (node, cores.values().filter_map(|cpus| cpus.get(tier).copied()).collect())
            })
            .collect();
        if pools.iter().all(|(_, cpus)| cpus.is_empty()) {
            break;
        }
        seats.extend(spread(&pools));
    }
    seats
}

/// The allowed CPUs by node and physical core.
///
/// CPUs that the topology does not know (it can be older than a hotplug, or belong to another
/// machine) are cores of their own on the first node: better a worker that may be far from its
/// memory than a CPU without work.
fn allowed_cores(
    topology: &Topology,
    allowed: &BTreeSet<CpuId>,
) -> BTreeMap<usize, BTreeMap<CpuId, Vec<CpuId>>> {
    let mut unknown = allowed.clone();
    let mut nodes: BTreeMap<usize, BTreeMap<CpuId, Vec<CpuId>>> = BTreeMap::new();
    for node in &topology.nodes {
        for cpu in &node.cpus {
            if unknown.remove(&cpu.id) {
                let cores = nodes.entry(node.id).or_default();
                cores.entry(cpu.core).or_default().push(cpu.id);
            }
        }
    }
    for cpu in unknown {
        nodes.entry(first_node(topology)).or_default().entry(cpu).or_default().push(cpu);
    }
    nodes
}

/// The first node that has CPUs.
fn first_node(topology: &Topology) -> usize {
    topology.nodes.iter().find(|node| !node.cpus.is_empty()).map_or(0, |node| node.id)
}

/// Merges the nodes' CPUs so that any number of them, from the front, is in proportion.
fn spread(pools: &[(usize, Vec<CpuId>)]) -> Vec<Seat> {
    let mut due: Vec<(usize, usize, Seat)> = pools
        .iter()
        .flat_map(|(node, cpus)| {
            cpus.iter().enumerate().map(|(index, &cpu)| {
                (2 * index + 1, cpus.len(), Seat { node: *node, cpu: Some(cpu) })
            })
        })
        .collect();
    // Compares fractions without dividing; a stable sort, so equal nodes come in their order.
    due.sort_by(|(a, of_a, _), (b, of_b, _)| (a * of_b).cmp(&(b * of_a)));
    due.into_iter().map(|(_, _, seat)| seat).collect()
}

#[cfg(test)]
mod tests;
