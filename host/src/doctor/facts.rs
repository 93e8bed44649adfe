//! What the host says.

use std::path::Path;
use std::str::FromStr;

use crate::config::{Io, Settings};
use crate::io;
use crate::sys;
use crate::worker::topology::{Machine, Quota, allowed};

/// Whether this process may use io_uring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ring {
    /// A ring could be made.
    Allowed,
    /// The kernel setting `kernel.io_uring_disabled` has this value, and no ring could be made.
    Disabled(u32),
    /// It could not, for another reason: an old kernel or one that loses wake-ups, a sandbox.
    Refused(String),
}

/// What the host says, and what the configuration wants. `None`: not visible from here, or not there.
#[derive(Clone, Debug)]
pub struct Facts {
    /// CPUs that this process may use.
    pub cpus: usize,
    /// CPU time that it gets.
    pub quota: Option<Quota>,
    /// NUMA nodes.
    pub nodes: usize,
    /// `limits.connections_max`.
    pub connections_max: usize,
    /// Open descriptors: the soft limit and the hard one.
    pub descriptors: (u64, u64),
    /// The largest `backlog` of a listener.
    pub backlog: u32,
    /// What the kernel cuts it to.
    pub somaxconn: Option<u32>,
    /// First and last port for outgoing connections.
    pub ports: Option<(u32, u32)>,
    /// `net.ipv4.tcp_tw_reuse`.
    pub tw_reuse: Option<u32>,
    /// Connections that the firewall follows, and the most that it can.
    pub conntrack: Option<(u64, u64)>,
    /// Whether io_uring can be used.
    pub ring: Ring,
    /// Whether the kernel can do TLS.
    pub ktls: Option<bool>,
    /// Bytes that this process may lock in memory.
    pub memlock: u64,
    /// `kernel.numa_balancing`.
    pub numa_balancing: Option<u32>,
    /// The mode of transparent huge pages.
    pub huge_pages: Option<String>,
    /// Most bytes of memory, and the file that says so.
    pub memory: Option<(u64, String)>,
    /// Most threads and processes, and the file that says so.
    pub tasks: Option<(u64, String)>,
    /// How the clock of the first CPU is chosen.
    pub governor: Option<String>,
    /// What the kernel reads the time from.
    pub clock: Option<String>,
}

impl Facts {
    /// Looks at the host below `root`, and at this process.
    pub(super) fn gather(root: &Path, settings: &Settings) -> Self {
        let machine = Machine::read();
        let sysctl = |name: &str| text(root, &format!("proc/sys/{name}"));
        let disabled = number(sysctl("kernel/io_uring_disabled"));
        let limit =
            |controller, file, file_v1| allowed::read_limit(root, controller, file, file_v1);
        Self {
            cpus: machine.allowed.cpus.len(),
            nodes: machine.topology.nodes.len(),
            quota: machine.quota,
            connections_max: settings.limits.connections_max,
            descriptors: sys::descriptor_limit(),
            backlog: settings.listeners.iter().map(|one| one.backlog).max().unwrap_or_default(),
            somaxconn: number(sysctl("net/core/somaxconn")),
            ports: sysctl("net/ipv4/ip_local_port_range").and_then(|text| pair(&text)),
            tw_reuse: number(sysctl("net/ipv4/tcp_tw_reuse")),
            conntrack: number(sysctl("net/netfilter/nf_conntrack_count"))
                .zip(number(sysctl("net/netfilter/nf_conntrack_max"))),
            ring: ring(disabled),
            ktls: sysctl("net/ipv4/tcp_available_ulp")
                .map(|names| names.split_whitespace().any(|name| name == "tls")),
            memlock: sys::memlock_limit(),
            numa_balancing: number(sysctl("kernel/numa_balancing")),
            huge_pages: text(root, "sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|modes| chosen(&modes)),
            memory: limit("memory", "memory.max", "memory.limit_in_bytes"),
            tasks: limit("pids", "pids.max", "pids.max"),
            governor: text(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            clock: text(root, "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        }
    }
}

fn text(root: &Path, path: &str) -> Option<String> {
    let text = std::fs::read_to_string(root.join(path)).ok()?;
    Some(text.trim().to_owned())
}

fn number<T: FromStr>(text: Option<String>) -> Option<T> {
    text?.parse().ok()
}

/// Two numbers and white space between them.
fn pair(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// `always [madvise] never`: the word in brackets.
fn chosen(modes: &str) -> Option<String> {
    let mut words = modes.split_whitespace();
    words.find_map(|word| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_owned()))
}

/// Asks as a worker would.
fn ring(disabled: Option<u32>) -> Ring {
    match (io::choose(Io::Uring), disabled) {
        (Ok(_), _) => Ring::Allowed,
        (Err(_), Some(disabled @ 1..)) => Ring::Disabled(disabled),
        (Err(error), _) => Ring::Refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        assert_eq!(pair("32768\t60999"), Some((32_768, 60_999)));
        assert_eq!(pair("32768"), None);
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("always madvise never"), None);
        assert_eq!(number::<u32>(Some("many".to_owned())), None);
    }
}
