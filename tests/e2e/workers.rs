//! Workers: where they sit, what they share, what becomes of them when descriptors run out.
//!
//! Not here: how they balance (`balance`), how many there are by which flag (`cli`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Gateway, Launch, Upstream, eventually};

/// CPUs of each thread of a process, for the threads that may use one CPU only.
fn pinned(gateway: &Gateway) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.id())).unwrap();
    let cpus = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        let one = line.trim().parse::<u32>().is_ok();
        one.then(|| line.trim().to_owned())
    };
    tasks.filter_map(cpus).collect()
}

/// D5: each worker stays on one CPU, and no two on the same while there are enough.
#[test]
fn workers_are_pinned_to_different_cpus_unless_told_otherwise() {
    let available = std::thread::available_parallelism().unwrap().get();
    let workers = available.min(2);
    let routes = json!([{ "path": "/", "respond": { "status": 200 } }]);

    let gateway =
        Gateway::start(json!({ "workers": { "count": workers, "pin": true }, "routes": routes }));
    let cpus = eventually("pinned workers", || {
        Some(pinned(&gateway)).filter(|cpus| cpus.len() >= workers)
    });
    assert_eq!(BTreeSet::from_iter(&cpus).len(), workers, "{cpus:?}");
    assert_eq!(gateway.get("/").status(), 200);

    if available > 1 {
        let gateway =
            Gateway::start(json!({ "workers": { "count": 2, "pin": false }, "routes": routes }));
        assert_eq!(gateway.get("/").status(), 200);
        assert_eq!(pinned(&gateway), Vec::<String>::new());
    }
}

#[test]
fn ipv6_works_on_both_sides() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(&upstream, json!({ "listeners": [{ "address": "[::1]:0" }] }));

    assert_eq!(gateway.get("/").text(), "hello");
    assert_eq!(upstream.last_request().field("x-forwarded-for"), Some("::1"));

    // One gateway behind the other.
    let front = Gateway::start(json!({
        "trusted_proxies": ["::1"],
        "routes": [{ "path": "/", "upstream": format!("http://{}", gateway.address()) }],
    }));
    assert_eq!(front.get("/").text(), "hello");
}

/// EMFILE: accepting again at once would fail again at once, for ever.
#[test]
fn running_out_of_descriptors_neither_spins_nor_ends_a_worker() {
    let upstream = Upstream::answering("hello");
    let gateway = Launch::config(json!({
        "workers": { "count": 1, "pin": false },
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "routes": [{ "path": "/", "upstream": "test" }],
    }))
    .files_max(80)
    .start();
    let mut served = gateway.connect();
    assert_eq!(served.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "hello");

    // Each says something, or it would not be accepted at all (TCP_DEFER_ACCEPT).
    let crowd: Vec<_> = (0..150)
        .map(|_| {
            let mut client = gateway.connect();
            client.send("GET / HTTP/1.1\r\n");
            client
        })
        .collect();
    let before = cpu_ticks(&gateway);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        // Those who are in are served as before.
        assert_eq!(served.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "hello");
        std::thread::sleep(Duration::from_millis(50));
    }
    let busy = cpu_ticks(&gateway) - before;

    // A hundred ticks are a second.
    assert!(busy < 50, "{busy} ticks of CPU time in a second without work");
    drop(crowd);
    let answer = eventually("room", || {
        let mut client = gateway.connect();
        client.deadline = Duration::from_secs(2);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.try_response().ok()
    });
    assert_eq!(answer.text(), "hello");
}

/// User and system time of a process, in clock ticks.
fn cpu_ticks(gateway: &Gateway) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Nobody is refused when everybody comes at once: what the queues of the kernel cannot hold tries
/// again by itself. All of them stay until the last one has its answer.
#[test]
fn ten_thousand_connections_at_once_are_all_served() {
    let spare = 200;
    let count = descriptors().saturating_sub(spare).min(10_000);
    for acceptors in ["per-worker", "dedicated"] {
        let gateway = Gateway::start(json!({
            "workers": { "count": 2, "pin": false, "acceptors": acceptors },
            "routes": [{ "path": "/", "respond": { "status": 200, "body": "hello" } }],
        }));

        let answers = ask_at_once(gateway.address(), count);

        assert_eq!(answers, count, "{acceptors}: answers");
        let count = u32::try_from(count).unwrap().into();
        gateway.counts("zproxy_connections_accepted_total", &[], count);
        gateway.counts("zproxy_accept_errors_total", &[], 0.0);
    }
}

#[test]
fn a_backlog_that_the_kernel_cuts_is_told_at_the_start() {
    let gateway = Gateway::start(json!({
        "listeners": [{ "address": "127.0.0.1:0", "backlog": 1_000_000 }],
        "routes": [{ "path": "/", "respond": { "status": 200 } }],
    }));

    gateway.logs("sysctl -w net.core.somaxconn=1000000");
}

/// Allows this process as many descriptors as it can have, and says how many.
fn descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    limit.maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap())
}

/// Opens this many connections at the same time, asks on each, and closes none before all have been
/// answered: how many were.
fn ask_at_once(address: &str, count: usize) -> usize {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const END: &[u8] = b"\r\n\r\nhello";
    let ask = async |address: String| -> std::io::Result<_> {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(END) {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        Ok(stream)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut open = Vec::with_capacity(count);
    runtime.block_on(async {
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..count {
            asking.spawn(ask(address.to_owned()));
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while let Ok(Some(asked)) = tokio::time::timeout_at(deadline, asking.join_next()).await {
            open.push(asked.unwrap().unwrap());
        }
    });
    open.len()
}

#[test]
fn dedicated_acceptors_are_threads_kept_on_their_node() {
    let gateway = Gateway::start(json!({
        "workers": { "count": 1, "pin": true, "acceptors": "dedicated" },
        "routes": [{ "path": "/", "respond": { "status": 200 } }],
    }));
    assert_eq!(gateway.get("/").status(), 200);

    let topology = crate::harness::run(
        gateway.dir.path(),
        &["topology", "--config", "zproxy.json", "--format", "json"],
    );
    let plan: serde_json::Value = serde_json::from_str(&topology.stdout).unwrap();
    let planned = &plan["acceptors"][0];

    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.id())).unwrap();
    let name = format!("Name:\tacceptor-{}\n", planned["node"]);
    let status = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .find(|status| status.starts_with(&name))
        .expect("a thread of that name");
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let planned: Vec<usize> = serde_json::from_value(planned["cpus"].clone()).unwrap();
    let allowed = zproxy::worker::topology::parse_cpu_list(cpus).unwrap();
    assert_eq!(allowed, BTreeSet::from_iter(planned));
}
