//! From facts to findings: a rule for each, and nothing else.

use serde::Serialize;

use super::facts::{Facts, Ring};

/// Descriptors beside those of connections: listeners, logs, files of plugins, pipes.
const SPARE_DESCRIPTORS: u64 = 1024;

/// Below this many descriptors a gateway is for trying things out.
const DESCRIPTORS_MIN: u64 = 1024;

/// Ports for connections to one address of an upstream; pooled ones hold one each.
const PORTS_MIN: u32 = 10_000;

/// Memory for the gateway itself, some plugins and some buffers.
const MEMORY_MIN: u64 = 64 << 20;

/// Threads beside the workers: control, admin, logs, the plugins' clock, compiling.
const SPARE_TASKS: u64 = 32;

/// Locked memory that rings and their buffers take, with room.
const MEMLOCK_MIN: u64 = 8 << 20;

/// How well it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Limits nothing.
    Ok,
    /// Costs something, or will under load.
    Warn,
    /// Does not let the gateway do its work.
    Bad,
}

impl Verdict {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// One thing that can limit a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub name: &'static str,
    /// How it stands.
    pub value: String,
    /// Whether that is well.
    pub verdict: Verdict,
    /// Why it matters.
    pub why: &'static str,
    /// The command, or whatever else lifts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// Judges what is known; what is not visible is left out.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let rules: [fn(&Facts) -> Option<Finding>; 16] = [
        cpus,
        descriptors,
        backlog,
        ports,
        time_wait,
        conntrack,
        ring,
        memlock,
        ktls,
        nodes,
        huge_pages,
        memory,
        tasks,
        governor,
        clock,
        connections,
    ];
    rules.iter().filter_map(|rule| rule(facts)).collect()
}

fn finding(
    name: &'static str,
    value: impl ToString,
    why: &'static str,
    trouble: Option<(Verdict, String)>,
) -> Option<Finding> {
    let value = value.to_string();
    let (verdict, cure) = match trouble {
        Some((verdict, cure)) => (verdict, Some(cure)),
        None => (Verdict::Ok, None),
    };
    Some(Finding { name, value, verdict, why, cure })
}

fn warn_if(is_so: bool, cure: impl Into<String>) -> Option<(Verdict, String)> {
    is_so.then(|| (Verdict::Warn, cure.into()))
}

fn sysctl(setting: &str) -> String {
    format!("sysctl -w {setting}; to keep it: echo '{setting}' > /etc/sysctl.d/90-zproxy.conf")
}

fn cpus(facts: &Facts) -> Option<Finding> {
    let why = "a quota that is used up stops every worker until the next period";
    let Some(quota) = &facts.quota else { return finding("cpus", facts.cpus, why, None) };
    let value = format!("{}, quota of {} ({})", facts.cpus, quota.cpus, quota.from);
    // A worker for the part of a CPU shares it with nobody, but stands still for the rest.
    let cure = "give a whole number of CPUs (in a container: --cpus, resources.limits.cpu)";
    finding("cpus", value, why, warn_if(quota.cpus.fract() != 0.0, cure))
}

fn descriptors(facts: &Facts) -> Option<Finding> {
    let (soft, hard) = facts.descriptors;
    let wanted = (facts.connections_max as u64).saturating_mul(2).saturating_add(SPARE_DESCRIPTORS);
    let word = |limit: u64| match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    };
    let value = format!("{} of {}, {wanted} wanted", word(soft), word(hard));
    let why = "a connection takes one descriptor and one more upstream; the gateway raises the soft limit to \
               the hard one itself, and at the end of that nobody is accepted";
    let cure = format!(
        "ulimit -Hn {wanted} (systemd: LimitNOFILE={wanted}; Docker: --ulimit nofile={wanted}), or lower \
         limits.connections_max"
    );
    let trouble = match hard {
        ..=DESCRIPTORS_MIN => Some((Verdict::Bad, cure)),
        hard => warn_if(hard < wanted, cure),
    };
    finding("descriptors", value, why, trouble)
}

fn backlog(facts: &Facts) -> Option<Finding> {
    let (somaxconn, backlog) = (facts.somaxconn?, facts.backlog);
    let value = format!("{backlog}, net.core.somaxconn {somaxconn}");
    let why = "the kernel cuts the backlog of a listener to it; in a burst, clients beyond it wait a second \
               or more for their next try";
    let cure = sysctl(&format!("net.core.somaxconn={backlog}"));
    finding("backlog", value, why, warn_if(somaxconn < backlog, cure))
}

fn ports(facts: &Facts) -> Option<Finding> {
    let (first, last) = facts.ports?;
    let count = last.saturating_sub(first) + 1;
    let value = format!("{count} ({first}-{last})");
    let why = "each connection to one address of an upstream takes a port of its own";
    let cure = sysctl("net.ipv4.ip_local_port_range=1024 65535");
    finding("local ports", value, why, warn_if(count < PORTS_MIN, cure))
}

fn time_wait(facts: &Facts) -> Option<Finding> {
    let value = facts.tw_reuse?;
    let why = "the port of a connection that was closed is held for a minute; upstreams that close after each \
               response can use all of them up";
    let cure = sysctl("net.ipv4.tcp_tw_reuse=1");
    finding("tcp_tw_reuse", value, why, warn_if(value == 0, cure))
}

fn conntrack(facts: &Facts) -> Option<Finding> {
    let (count, max) = facts.conntrack?;
    let value = format!("{count} of {max}");
    let why =
        "the firewall follows each connection and drops the packets of those that have no room";
    let wanted = (facts.connections_max as u64).saturating_mul(2);
    let cure = sysctl(&format!("net.netfilter.nf_conntrack_max={}", wanted.max(max)));
    let trouble = match count >= max - max / 10 {
        true => Some((
            Verdict::Bad,
            sysctl(&format!("net.netfilter.nf_conntrack_max={}", 2 * max.max(wanted))),
        )),
        false => warn_if(max < wanted, cure),
    };
    finding("conntrack", value, why, trouble)
}

fn ring(facts: &Facts) -> Option<Finding> {
    let why = "with it a worker makes fewer system calls; without it the gateway works by epoll";
    let (value, trouble) = match &facts.ring {
        Ring::Allowed => ("allowed".to_owned(), None),
        Ring::Disabled(value) => (
            format!("kernel.io_uring_disabled is {value}"),
            warn_if(true, sysctl("kernel.io_uring_disabled=0")),
        ),
        Ring::Refused(error) => (
            format!("refused: {error}"),
            warn_if(
                true,
                "allow io_uring_setup, io_uring_enter and io_uring_register in the sandbox (Docker: \
                 --security-opt seccomp=PROFILE), on Linux 6.6 or later that does not lose wake-ups",
            ),
        ),
    };
    finding("io_uring", value, why, trouble)
}

fn memlock(facts: &Facts) -> Option<Finding> {
    if facts.ring != Ring::Allowed {
        return None;
    }
    let value = bytes(facts.memlock);
    let why = "what io_uring shares with the kernel counts against it";
    let cure = format!(
        "ulimit -l {} (systemd: LimitMEMLOCK=8M; Docker: --ulimit memlock={MEMLOCK_MIN})",
        MEMLOCK_MIN >> 10
    );
    finding("locked memory", value, why, warn_if(facts.memlock < MEMLOCK_MIN, cure))
}

/// Never a warning: no version uses it yet that could be faster with it.
fn ktls(facts: &Facts) -> Option<Finding> {
    let value = if facts.ktls? { "loaded" } else { "not loaded (modprobe tls)" };
    finding(
        "kTLS",
        value,
        "the kernel could encrypt what is sent; this version does not use it",
        None,
    )
}

fn nodes(facts: &Facts) -> Option<Finding> {
    let nodes = facts.nodes;
    let balancing = facts.numa_balancing.unwrap_or(0);
    let value = match nodes {
        1 => "1".to_owned(),
        nodes => format!("{nodes}, kernel.numa_balancing {balancing}"),
    };
    let why = "workers stay on their node and so does their memory; balancing unmaps pages to learn what is known, \
               and each costs a fault";
    let cure = sysctl("kernel.numa_balancing=0");
    finding("NUMA nodes", value, why, warn_if(nodes > 1 && balancing != 0, cure))
}

fn huge_pages(facts: &Facts) -> Option<Finding> {
    let value = facts.huge_pages.as_ref()?;
    let why = "with `always` a buffer or a stack of which little is used can take 2 MiB";
    let cure = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
    finding("huge pages", value, why, warn_if(value == "always", cure))
}

fn memory(facts: &Facts) -> Option<Finding> {
    let (max, from) = facts.memory.as_ref()?;
    let value = format!("{} ({from})", bytes(*max));
    let why = "a process that goes beyond it is killed, with every connection";
    let trouble = (*max < MEMORY_MIN).then(|| {
        (Verdict::Bad, format!("give at least {} (in a container: --memory)", bytes(MEMORY_MIN)))
    });
    finding("memory limit", value, why, trouble)
}

fn tasks(facts: &Facts) -> Option<Finding> {
    let (max, from) = facts.tasks.as_ref()?;
    let wanted = facts.cpus as u64 + SPARE_TASKS;
    let value = format!("{max} ({from})");
    let why = "each worker is a thread; a start that gets none fails";
    let cure = format!("allow {wanted} tasks or more (systemd: TasksMax=; Docker: --pids-limit)");
    finding("tasks limit", value, why, (*max < wanted).then_some((Verdict::Bad, cure)))
}

fn governor(facts: &Facts) -> Option<Finding> {
    let value = facts.governor.as_ref()?;
    let why = "a CPU that is slow to speed up answers the first requests after a pause late";
    let cure = "cpupower frequency-set -g performance";
    finding("CPU governor", value, why, warn_if(value != "performance", cure))
}

fn clock(facts: &Facts) -> Option<Finding> {
    let value = facts.clock.as_ref()?;
    let why = "the time is asked for with each request; from a slow clock that is a system call";
    let slow = matches!(&**value, "hpet" | "acpi_pm" | "jiffies" | "refined-jiffies" | "pit");
    let cure = "boot with clocksource=tsc, where the CPU's own is stable (dmesg | grep -i tsc says why not)";
    finding("clock", value, why, warn_if(slow, cure))
}

/// Last, since it follows from the others.
fn connections(facts: &Facts) -> Option<Finding> {
    let (_, hard) = facts.descriptors;
    let by_descriptors = hard.saturating_sub(SPARE_DESCRIPTORS) / 2;
    let most = by_descriptors.min(facts.connections_max as u64);
    finding(
        "connections",
        format!("about {most} at a time"),
        "with one upstream connection each",
        None,
    )
}

fn bytes(count: u64) -> String {
    match count {
        u64::MAX => "unlimited".to_owned(),
        0..1_048_576 => format!("{} KiB", count >> 10),
        count => format!("{} MiB", count >> 20),
    }
}
