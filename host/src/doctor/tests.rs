//! Hosts that limit nothing, and one change to each.

use super::*;
use crate::worker::topology::Quota;

/// Limits nothing.
fn sound() -> Facts {
    Facts {
        cpus: 8,
        quota: None,
        nodes: 2,
        connections_max: 100_000,
        descriptors: (1_024, 1_048_576),
        backlog: 4_096,
        somaxconn: Some(4_096),
        ports: Some((32_768, 60_999)),
        tw_reuse: Some(2),
        conntrack: Some((120, 262_144)),
        ring: Ring::Allowed,
        ktls: Some(true),
        memlock: 8 << 20,
        numa_balancing: Some(0),
        huge_pages: Some("madvise".to_owned()),
        memory: Some((1 << 30, "/sys/fs/cgroup/memory.max".to_owned())),
        tasks: Some((4_096, "/sys/fs/cgroup/pids.max".to_owned())),
        governor: Some("performance".to_owned()),
        clock: Some("tsc".to_owned()),
    }
}

/// Shows nothing but what every process knows of itself.
fn opaque() -> Facts {
    Facts {
        somaxconn: None,
        ports: None,
        tw_reuse: None,
        conntrack: None,
        ktls: None,
        numa_balancing: None,
        huge_pages: None,
        memory: None,
        tasks: None,
        governor: None,
        clock: None,
        ..sound()
    }
}

/// What is not well: name, verdict, cure.
fn troubles(facts: &Facts) -> Vec<(&'static str, Verdict, String)> {
    let findings = judge(facts).into_iter().filter(|finding| finding.verdict != Verdict::Ok);
    findings.map(|one| (one.name, one.verdict, one.cure.unwrap_or_default())).collect()
}

#[test]
fn a_sound_host_has_no_trouble_and_an_opaque_one_is_not_suspected() {
    assert_eq!(troubles(&sound()), []);
    assert_eq!(judge(&sound()).len(), 16);
    assert_eq!(troubles(&opaque()), []);
    assert!(judge(&opaque()).len() < 16);
}

#[test]
fn each_limit_is_found_with_its_own_cure() {
    use Verdict::{Bad, Warn};
    type Change = fn(&mut Facts);
    let cases: [(Change, &str, Verdict, &str); 18] = [
        (|f| f.quota = Some(Quota { cpus: 1.5, from: String::new() }), "cpus", Warn, "--cpus"),
        (|f| f.descriptors = (1_024, 20_000), "descriptors", Warn, "ulimit -Hn 201024"),
        (|f| f.descriptors = (256, 1_024), "descriptors", Bad, "LimitNOFILE=201024"),
        (|f| f.backlog = 65_536, "backlog", Warn, "sysctl -w net.core.somaxconn=65536"),
        (|f| f.ports = Some((50_000, 50_999)), "local ports", Warn, "ip_local_port_range"),
        (|f| f.tw_reuse = Some(0), "tcp_tw_reuse", Warn, "tcp_tw_reuse=1"),
        (|f| f.conntrack = Some((0, 65_536)), "conntrack", Warn, "conntrack_max=200000"),
        (|f| f.conntrack = Some((65_000, 65_536)), "conntrack", Bad, "conntrack_max=400000"),
        (|f| f.ring = Ring::Disabled(2), "io_uring", Warn, "io_uring_disabled=0"),
        (|f| f.ring = Ring::Refused("EPERM".to_owned()), "io_uring", Warn, "seccomp"),
        (|f| f.memlock = 64 << 10, "locked memory", Warn, "ulimit -l 8192"),
        (|f| f.numa_balancing = Some(1), "NUMA nodes", Warn, "kernel.numa_balancing=0"),
        (|f| f.huge_pages = Some("always".to_owned()), "huge pages", Warn, "echo madvise"),
        (|f| f.memory = Some((32 << 20, String::new())), "memory limit", Bad, "64 MiB"),
        (|f| f.tasks = Some((16, String::new())), "tasks limit", Bad, "allow 40 tasks"),
        (|f| f.governor = Some("powersave".to_owned()), "CPU governor", Warn, "-g performance"),
        (|f| f.clock = Some("hpet".to_owned()), "clock", Warn, "clocksource=tsc"),
        (|f| f.connections_max = usize::MAX, "descriptors", Warn, "connections_max"),
    ];
    for (change, name, verdict, cure) in cases {
        let mut facts = sound();
        change(&mut facts);

        let found = troubles(&facts);

        let trouble = found.iter().find(|trouble| trouble.0 == name);
        let (_, as_found, command) = trouble.unwrap_or_else(|| panic!("{name}: {found:?}"));
        assert_eq!(*as_found, verdict, "{name}");
        assert!(command.contains(cure), "{name}: {command}");
    }
}

/// Balancing has nothing to do on one node, locked memory without a ring.
#[test]
fn what_has_no_effect_here_is_no_trouble() {
    let one_node = Facts { nodes: 1, numa_balancing: Some(1), ..sound() };
    let no_ring = Facts { ring: Ring::Disabled(2), memlock: 0, ..sound() };
    let whole = Facts { quota: Some(Quota { cpus: 2.0, from: String::new() }), ..sound() };

    assert_eq!(troubles(&one_node), []);
    assert_eq!(troubles(&no_ring).len(), 1);
    assert_eq!(troubles(&whole), []);
}

#[test]
fn people_see_a_line_each_and_what_to_do() {
    let facts = Facts { somaxconn: Some(128), ..sound() };
    let findings = judge(&facts);

    let text = render(&findings);

    assert!(text.contains("warn  backlog        4096, net.core.somaxconn 128\n"), "{text}");
    assert!(
        text.contains("                     do:  sysctl -w net.core.somaxconn=4096;"),
        "{text}"
    );
    assert!(text.contains("ok    clock          tsc\n"), "{text}");
    assert!(!is_bad(&findings));
}

#[test]
fn programs_get_every_finding() {
    let facts = Facts { descriptors: (64, 64), ..sound() };

    let value = describe(&judge(&facts));

    assert_eq!(value["ok"], json!(false));
    let findings = value["findings"].as_array().unwrap();
    let one = findings.iter().find(|one| one["name"] == "descriptors").unwrap();
    assert_eq!(one["verdict"], "bad");
    assert_eq!(one["value"], "64 of 64, 201024 wanted");
    assert!(one["why"].is_string() && one["cure"].is_string());
    assert!(findings[0].get("cure").is_none(), "nothing to cure");
}
