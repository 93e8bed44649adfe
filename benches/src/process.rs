//! What `/proc` knows of processes: their CPU time, their children, who listens on a port.
//!
//! Not here: starting and stopping them (`contender`, `launch`).

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// What `/proc` calls a tick: USER_HZ is 100 on every Linux that runs this.
const TICK_NS: u64 = 10_000_000;

/// A process and all that descend from it, parents first.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let parents: Vec<(u32, u32)> = all().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        found.extend(parents.iter().filter(|child| child.1 == parent).map(|child| child.0));
    }
    found
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    after_name(&stat)?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The fields of a `stat` line from the third on; the name before may hold spaces and brackets.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, fields)| fields)
}

/// CPU time of these processes so far, all threads together, in nanoseconds.
pub(crate) fn cpu_time_ns(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| threads_cpu_time_ns(*pid)).sum()
}

/// Sums the threads that live: one that ended in between takes its time along, and proxies
/// keep theirs. The file of the process itself would show its first thread only.
fn threads_cpu_time_ns(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|thread| thread_cpu_time_ns(&thread.path()).unwrap_or(0)).sum()
}

fn thread_cpu_time_ns(thread: &Path) -> Option<u64> {
    if let Ok(schedstat) = fs::read_to_string(thread.join("schedstat")) {
        return schedstat.split_ascii_whitespace().next()?.parse().ok();
    }
    // A kernel without CONFIG_SCHED_INFO: user and system time, in ticks of 10 ms mostly.
    let stat = fs::read_to_string(thread.join("stat")).ok()?;
    let mut fields = after_name(&stat)?.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * TICK_NS)
}

/// Resident memory of these processes, in KiB.
pub(crate) fn resident_kib(pids: &[u32]) -> u64 {
    status_kib(pids, "VmRSS:")
}

/// Of that, what is not the content of a file: what they have written.
pub(crate) fn written_kib(pids: &[u32]) -> u64 {
    status_kib(pids, "RssAnon:")
}

fn status_kib(pids: &[u32], name: &str) -> u64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum()
}

/// Open descriptors of these processes.
pub(crate) fn descriptors(pids: &[u32]) -> usize {
    // Since Linux 6.2 the size of the folder is their number; counting them takes its time.
    let of = |pid: &u32| {
        let folder = format!("/proc/{pid}/fd");
        match fs::metadata(&folder).map_or(0, |found| found.len()) {
            0 => fs::read_dir(folder).map_or(0, Iterator::count),
            count => usize::try_from(count).unwrap_or(usize::MAX),
        }
    };
    pids.iter().map(of).sum()
}

/// Whether these processes hold every listening socket of a TCP port, and there is one.
///
/// Two processes can share a port through SO_REUSEPORT without either noticing; half of the
/// requests would then be answered, and paid for, by the other.
pub(crate) fn own_listener(pids: &[u32], port: u16) -> Result<(), String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let listening: HashSet<String> =
        tables.iter().flatten().flat_map(|table| listening_inodes(table, port)).collect();
    if listening.is_empty() {
        return Err(format!("nothing listens on port {port}"));
    }
    let held: HashSet<String> = pids.iter().flat_map(|pid| socket_inodes(*pid)).collect();
    match listening.difference(&held).next() {
        None => Ok(()),
        Some(_) => Err(format!("another process listens on port {port} too")),
    }
}

fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let matches = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == LISTEN;
        matches.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    };
    table.lines().filter_map(inode).collect()
}

fn socket_inodes(pid: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let name = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        Some(name.to_owned())
    };
    descriptors.filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_tree_holds_its_children() {
        let mut child = Command::new("sleep").arg("5").spawn().unwrap();

        let tree = tree(std::process::id());

        child.kill().unwrap();
        child.wait().unwrap();
        assert!(tree.contains(&child.id()));
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let pids = [std::process::id()];
        let before = cpu_time_ns(&pids);
        let started = Instant::now();

        while cpu_time_ns(&pids) < before + 20_000_000 {
            assert!(started.elapsed() < Duration::from_secs(20), "no CPU time is counted");
        }
    }

    #[test]
    fn a_listener_is_ascribed_to_who_holds_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();

        assert_eq!(own_listener(&[std::process::id()], port), Ok(()));
        assert!(own_listener(&[1], port).unwrap_err().contains("another process"));
        drop(listener);
        assert!(own_listener(&[std::process::id()], port).unwrap_err().contains("nothing"));
    }
}
