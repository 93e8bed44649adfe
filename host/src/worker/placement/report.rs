//! What `zproxy topology` prints: the machine, and the workers that it would get.
//!
//! Not here: deciding anything.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{AcceptorPlace, Machine, Placement, acceptors, place, warnings};
use crate::config::Workers;
use crate::worker::topology::{Node, format_cpu_list};

/// The machine and its workers, for programs.
#[must_use]
pub fn describe(machine: &Machine, workers: &Workers) -> Value {
    let placed = place_on(machine, workers);
    json!({
        "source": machine.topology.source,
        "nodes": machine.topology.nodes,
        "allowed": machine.allowed,
        "quota": machine.quota,
        "workers": placed,
        "acceptors": acceptors(machine, workers, &placed),
        "warnings": warnings(machine, workers, &placed),
    })
}

/// The machine and its workers, for people. Ends with a line break.
#[must_use]
pub fn render(machine: &Machine, workers: &Workers) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut text, machine, workers);
    text
}

fn write_text(text: &mut String, machine: &Machine, workers: &Workers) -> std::fmt::Result {
    writeln!(text, "layout   {}", machine.topology.source)?;
    for node in &machine.topology.nodes {
        writeln!(text, "node {:<3} {}", node.id, content_of(node))?;
    }
    let cpus = format_cpu_list(machine.allowed.cpus.iter().copied());
    writeln!(text, "allowed  CPU {cpus} ({})", machine.allowed.from)?;
    match &machine.quota {
        Some(quota) => writeln!(text, "quota    {} CPUs ({})", quota.cpus, quota.from)?,
        None => writeln!(text, "quota    none")?,
    }

    let placed = place_on(machine, workers);
    let pinned = if workers.pin { "pinned" } else { "not pinned" };
    writeln!(text, "workers  {}, {pinned}", placed.len())?;
    for Placement { worker, cpu, node } in &placed {
        match cpu {
            Some(cpu) => writeln!(text, "  worker {worker:<4} node {node:<3} CPU {cpu}")?,
            None => writeln!(text, "  worker {worker}")?,
        }
    }
    for AcceptorPlace { node, cpus } in acceptors(machine, workers, &placed) {
        match cpus {
            Some(cpus) => {
                writeln!(text, "  acceptor    node {node:<3} CPU {}", format_cpu_list(cpus))?
            }
            None => writeln!(text, "  acceptor    node {node}")?,
        }
    }
    for warning in warnings(machine, workers, &placed) {
        writeln!(text, "warning  {warning}")?;
    }
    Ok(())
}

fn place_on(machine: &Machine, workers: &Workers) -> Vec<Placement> {
    let quota = machine.quota.as_ref().map(|quota| quota.cpus);
    place(&machine.topology, &machine.allowed, quota, workers)
}

fn content_of(node: &Node) -> String {
    if node.cpus.is_empty() {
        return "memory only".to_owned();
    }
    let cores = node.cpus.iter().map(|cpu| cpu.core).collect::<BTreeSet<_>>().len();
    let plural = if cores == 1 { "" } else { "s" };
    format!("CPU {} on {cores} core{plural}", format_cpu_list(node.cpus.iter().map(|cpu| cpu.id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Acceptors, Io};
    use crate::worker::topology::{AllowedCpus, Cpu, Quota, Topology};

    /// Two cores with SMT on node 0, memory on node 1, a mask and a quota.
    fn machine() -> Machine {
        let cpu = |id, core, sibling| Cpu { id, core, sibling };
        Machine {
            topology: Topology {
                nodes: vec![
                    Node {
                        id: 0,
                        cpus: vec![cpu(0, 0, 0), cpu(1, 1, 0), cpu(2, 0, 1), cpu(3, 1, 1)],
                    },
                    Node { id: 1, cpus: vec![] },
                ],
                source: "/sys".to_owned(),
            },
            allowed: AllowedCpus {
                cpus: BTreeSet::from([0, 1, 2]),
                from: "affinity mask".to_owned(),
            },
            quota: Some(Quota { cpus: 1.5, from: "/sys/fs/cgroup/cpu.max".to_owned() }),
        }
    }

    fn workers(count: Option<usize>, pin: bool) -> Workers {
        Workers { count, pin, acceptors: Acceptors::PerWorker, io: Io::Auto }
    }

    #[test]
    fn programs_get_everything_as_json() {
        let value = describe(&machine(), &workers(None, true));

        assert_eq!(
            value,
            json!({
                "source": "/sys",
                "nodes": [
                    { "id": 0, "cpus": [
                        { "id": 0, "core": 0, "sibling": 0 },
                        { "id": 1, "core": 1, "sibling": 0 },
                        { "id": 2, "core": 0, "sibling": 1 },
                        { "id": 3, "core": 1, "sibling": 1 },
                    ] },
                    { "id": 1, "cpus": [] },
                ],
                "allowed": { "cpus": [0, 1, 2], "from": "affinity mask" },
                "quota": { "cpus": 1.5, "from": "/sys/fs/cgroup/cpu.max" },
                "workers": [
                    { "worker": 0, "cpu": 0, "node": 0 },
                    { "worker": 1, "cpu": 1, "node": 0 },
                ],
                "acceptors": [],
                "warnings": [],
            })
        );
    }

    #[test]
    fn dedicated_acceptors_are_shown() {
        let workers = Workers { acceptors: Acceptors::Dedicated, ..workers(None, true) };

        let (value, text) = (describe(&machine(), &workers), render(&machine(), &workers));

        assert_eq!(value["acceptors"], json!([{ "node": 0, "cpus": [0, 1, 2] }]));
        assert!(text.ends_with("  acceptor    node 0   CPU 0-2\n"), "{text}");
    }

    #[test]
    fn people_get_a_page() {
        assert_eq!(
            render(&machine(), &workers(None, true)),
            "layout   /sys\n\
             node 0   CPU 0-3 on 2 cores\n\
             node 1   memory only\n\
             allowed  CPU 0-2 (affinity mask)\n\
             quota    1.5 CPUs (/sys/fs/cgroup/cpu.max)\n\
             workers  2, pinned\n  \
               worker 0    node 0   CPU 0\n  \
               worker 1    node 0   CPU 1\n"
        );
    }

    #[test]
    fn too_many_workers_are_warned_about_with_the_cure() {
        let text = render(&machine(), &workers(Some(4), false));

        assert!(text.contains("workers  4, not pinned\n  worker 0\n  worker 1\n"), "{text}");
        assert!(text.contains("warning  4 workers share CPU 0-2 and"), "{text}");
        assert!(text.contains("warning  4 workers for a quota of 1.5 CPUs"), "{text}");
        assert!(text.contains("`\"workers\": 2`"), "{text}");
    }

    #[test]
    fn workers_that_fit_are_not_warned_about() {
        for count in [None, Some(1), Some(2)] {
            let value = describe(&machine(), &workers(count, true));
            assert_eq!(value["warnings"], json!([]), "{count:?}");
        }
    }
}
