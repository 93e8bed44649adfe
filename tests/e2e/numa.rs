//! Workers and their memory on a machine of several NUMA nodes. Ignored, since few machines have them:
//! `make numa` runs these in a guest that does.
//!
//! Where pages are is what the kernel says (`/proc/PID/numa_maps`). Whose they are:
//!
//! - a wasm memory is a mapping of its own, found by the image that it begins with; each worker has as
//!   many as the others, and the nodes have different numbers of workers, so the count of memories on
//!   a node shows whose they are;
//! - buffers are what grows when a client stops reading, and `/workers` says which worker its
//!   connection is with.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::harness::{Gateway, Upstream, eventually, guest};

/// Routes, each with a plugin configuration of its own, and so with an instance for each worker.
const ROUTES: usize = 4;

/// Pages by node.
type Pages = BTreeMap<usize, u64>;

/// Where the memory of a process is.
struct Memory {
    /// Pages of each wasm memory.
    wasm: Vec<Pages>,
    /// Other pages that are no file's.
    rest: Pages,
}

fn memory(gateway: &Gateway) -> Memory {
    let proc =
        |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", gateway.id())).unwrap();
    // Placements first: a mapping that is new in the second file is not missed, only unknown.
    let placed = proc("numa_maps");
    let mut placed: BTreeMap<u64, (bool, Pages)> = placed
        .lines()
        .map(|line| {
            let (address, rest) = line.split_once(' ').unwrap();
            (u64::from_str_radix(address, 16).unwrap(), (line.contains(" file="), pages(rest)))
        })
        .collect();
    let mut wasm: Vec<Pages> = Vec::new();
    // Of the mappings that follow each other without a gap, all of them writable.
    let (mut end, mut run, mut is_wasm) = (0, Pages::new(), false);
    let mut finish = |run: &mut Pages, is_wasm: &mut bool| {
        let run = std::mem::take(run);
        if std::mem::take(is_wasm) {
            wasm.push(run);
        }
    };
    let mut in_wasm = Vec::new();
    let mut members = Vec::new();
    for line in proc("maps").lines() {
        let mut words = line.split_whitespace();
        let (from, to) = words.next().unwrap().split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        let (from, to) = (address(from), address(to));
        let writable = words.next().unwrap().starts_with("rw-p");
        if from != end || !writable {
            if is_wasm {
                in_wasm.append(&mut members);
            }
            members.clear();
            finish(&mut run, &mut is_wasm);
        }
        end = to;
        if writable {
            members.push(from);
            is_wasm |= line.contains("wasm-memory-image");
            for (node, count) in placed.get(&from).into_iter().flat_map(|(_, pages)| pages) {
                *run.entry(*node).or_default() += count;
            }
        }
    }
    for address in in_wasm {
        placed.remove(&address);
    }
    let mut rest = Pages::new();
    for (_, pages) in placed.into_values().filter(|(of_file, _)| !of_file) {
        add(&mut rest, &pages);
    }
    Memory { wasm, rest }
}

/// `N0=12 N1=3` among other things.
fn pages(line: &str) -> Pages {
    let of_node = |word: &str| {
        let (node, count) = word.strip_prefix('N')?.split_once('=')?;
        Some((node.parse().ok()?, count.parse().ok()?))
    };
    line.split_whitespace().filter_map(of_node).collect()
}

fn add(sum: &mut Pages, pages: &Pages) {
    for (node, count) in pages {
        *sum.entry(*node).or_default() += count;
    }
}

/// What a process has more than before.
fn growth(before: &Pages, now: &Pages) -> Pages {
    let more = |(node, count): (&usize, &u64)| {
        (*node, count.saturating_sub(before.get(node).copied().unwrap_or(0)))
    };
    now.iter().map(more).collect()
}

fn share_on(node: usize, pages: &Pages) -> f64 {
    let all: u64 = pages.values().sum();
    let here = pages.get(&node).copied().unwrap_or(0);
    f64::from(u32::try_from(here).unwrap()) / f64::from(u32::try_from(all.max(1)).unwrap())
}

/// Workers by their numbers: node and connections.
fn workers(gateway: &Gateway) -> Vec<(usize, u64)> {
    let workers = gateway.admin_json("/workers");
    let of = |worker: &Value| {
        let node = usize::try_from(worker["node"].as_u64().unwrap()).unwrap();
        (node, worker["connections"].as_u64().unwrap_or(0))
    };
    workers["workers"].as_array().unwrap().iter().map(of).collect()
}

/// The node of each CPU, by the kernel.
fn node_of(cpu: usize) -> usize {
    let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_prefix("node")?.parse().ok()).next().unwrap()
}

/// Three workers for two nodes: one node has two, so that it cannot be taken for the other.
fn gateway(upstream: &Upstream, acceptors: &str) -> Gateway {
    let route = |index| {
        json!({
            "path": format!("/{index}"),
            "respond": { "status": 200 },
            "middleware": [{ "plugin": "echo-headers", "config": { "index": index } }],
        })
    };
    let mut routes: Vec<Value> = (0..ROUTES).map(route).collect();
    routes
        .push(json!({ "path": "/endless", "upstream": format!("http://{}", upstream.address()) }));
    Gateway::start(json!({
        "workers": { "count": 3, "pin": true, "acceptors": acceptors },
        "plugins": { "echo-headers": {
            "path": guest("echo_headers"),
            // Emulated machines are slow.
            "limits": { "time_ms_max": 10_000 },
        } },
        "routes": routes,
        // A client here does not read for longer than usual.
        "limits": { "idle_timeout_ms": 600_000, "request_timeout_ms": 600_000, "header_bytes_max": 160_000 },
    }))
}

/// Sends a body without an end.
fn endless() -> Upstream {
    Upstream::start(|connection| {
        connection.request()?;
        connection.try_send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
        loop {
            connection.try_send(&chunk)?;
        }
    })
}

#[test]
#[ignore = "needs two NUMA nodes: make numa"]
fn each_worker_and_its_memory_stay_on_its_node() {
    for acceptors in ["per-worker", "dedicated"] {
        let upstream = endless();
        let gateway = gateway(&upstream, acceptors);

        let placed = workers(&gateway);
        let mut on_node = Pages::new();
        for (node, _) in &placed {
            *on_node.entry(*node).or_default() += 1;
        }
        assert_eq!(on_node.values().sum::<u64>(), 3);
        assert_eq!(on_node.len(), 2, "two nodes: {on_node:?}");

        threads_stay_on_their_node(&gateway, &placed);
        wasm_memories_are_local(&gateway, &on_node);
        buffers_are_local(&gateway, &placed);
    }
}

/// Workers and acceptors: every CPU that they may use is one of their node.
fn threads_stay_on_their_node(gateway: &Gateway, placed: &[(usize, u64)]) {
    let mut seen = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", gateway.id())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        let name = field("Name:");
        let node = if let Some(worker) = name.strip_prefix("worker-") {
            placed[worker.parse::<usize>().unwrap()].0
        } else if let Some(node) = name.strip_prefix("acceptor-") {
            node.parse().unwrap()
        } else {
            continue;
        };
        let cpus = zproxy::worker::topology::parse_cpu_list(field("Cpus_allowed_list:")).unwrap();
        assert!(
            cpus.iter().all(|cpu| node_of(*cpu) == node),
            "{name} on {cpus:?}, not node {node}"
        );
        println!("{name}: CPU {cpus:?}, node {node}");
        seen += 1;
    }
    assert!(seen >= placed.len(), "{seen} threads");
}

/// After each instance of each worker has worked.
fn wasm_memories_are_local(gateway: &Gateway, on_node: &Pages) {
    let value = "v".repeat(12_000);
    let fields: String = (0..10).map(|index| format!("x-{index}: {value}\r\n")).collect();
    // Enough connections for each worker to get some of them.
    let mut clients: Vec<_> = (0..12).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        for route in 0..ROUTES {
            let request = format!("GET /{route} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(client.exchange(&request).status(), 200);
        }
    }
    assert!(workers(gateway).iter().all(|(_, connections)| *connections > 0));

    let memory = memory(gateway);

    let mut home = Pages::new();
    let mut all = Pages::new();
    let mut local = 0;
    for pages in &memory.wasm {
        let (node, most) = pages.iter().max_by_key(|(_, count)| **count).unwrap();
        *home.entry(*node).or_default() += 1;
        local += most;
        add(&mut all, pages);
        println!("wasm memory: {pages:?}");
    }
    let per_worker = memory.wasm.len() as u64 / 3;
    let expected: Pages = on_node.iter().map(|(node, count)| (*node, count * per_worker)).collect();
    assert_eq!(home, expected, "memories by node");
    assert!(per_worker >= ROUTES as u64, "{per_worker} memories for each worker");
    let sum: u64 = all.values().sum();
    println!("wasm memories: {local} of {sum} pages are local");
    assert!(local * 100 >= sum * 95, "{local} of {sum} pages of wasm memories are local");
}

/// A client that does not read makes its worker hold a buffer.
fn buffers_are_local(gateway: &Gateway, placed: &[(usize, u64)]) {
    let mut grown = vec![Pages::new(); placed.len()];
    let mut clients = Vec::new();
    for _ in 0..18 {
        let held = workers(gateway);
        let before = memory(gateway).rest;
        let mut client = gateway.connect();
        client.receive_little();
        client.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n");
        client.take_some().unwrap();
        // The first one takes a buffer that an earlier request has left: no growth then.
        let after = eventually("a body that has come to rest", || {
            let now = memory(gateway).rest;
            std::thread::sleep(std::time::Duration::from_millis(500));
            (memory(gateway).rest == now).then_some(now)
        });
        let now = workers(gateway);
        let worker = (0..now.len()).find(|worker| now[*worker].1 > held[*worker].1).unwrap();
        add(&mut grown[worker], &growth(&before, &after));
        clients.push(client);
    }
    for (worker, (pages, (node, _))) in grown.iter().zip(placed).enumerate() {
        let share = share_on(*node, pages);
        println!("worker {worker} on node {node}: buffers {pages:?}, {:.1} % local", share * 100.0);
        assert!(pages.values().sum::<u64>() >= 64, "worker {worker} holds buffers: {pages:?}");
        assert!(share >= 0.95, "buffers of worker {worker} on node {node}: {pages:?}");
    }
    std::io::stdout().flush().unwrap();
}

#[test]
fn placements_of_pages_are_read_as_the_kernel_writes_them() {
    let line = "7f00 bind:0 anon=3 dirty=3 active=0 N0=1 N1=2 kernelpagesize_kB=4";

    assert_eq!(pages(line), Pages::from([(0, 1), (1, 2)]));
    assert!((share_on(1, &Pages::from([(0, 5), (1, 95)])) - 0.95).abs() < 1e-9);
    assert_eq!(
        growth(&Pages::from([(0, 5)]), &Pages::from([(0, 7), (1, 1)])),
        [(0, 2), (1, 1)].into()
    );
}
