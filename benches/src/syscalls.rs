//! How many system calls a request costs each contender, counted by strace.
//!
//! A traced process is slow, and one that is slow finds more to do at each wait: loops that batch
//! look better here than they are. The calls that a request needs are there all the same.
//!
//! Not here: what the calls cost (`run` prices all of it together).

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use crate::args::Flags;
use crate::contender::{Kind, Lab};
use crate::machine::Machine;
use crate::run::{self, Owned};
use crate::scenario::Scenario;

/// Enough to drown what happens once.
const REQUESTS: u64 = 5_000;
/// strace attaches within moments, and writes its table at once.
const STRACE_WITHIN: Duration = Duration::from_secs(10);
/// Tracing costs a request a millisecond at most.
const LOAD_WITHIN: Duration = Duration::from_secs(100);
/// Calls rarer than this are not a request's.
const SHOWN_FROM: f64 = 0.01;

/// `zproxy-benches syscalls`.
pub(crate) fn command(arguments: Vec<String>) -> Result<()> {
    let mut flags = Flags::parse(arguments, &["no-fifo"])?;
    let scenarios = flags.words("scenario");
    let scenarios = if scenarios.is_empty() { vec!["keepalive".to_owned()] } else { scenarios };
    let scenarios = run::chosen(&scenarios)?;
    let only = flags.words("only");
    let requests = flags.within("requests", 100..=1_000_000)?.unwrap_or(REQUESTS);
    let machine = Machine::find(&[], false)?;
    let (_origin, lab) = run::prepare(&machine, &mut flags)?;
    flags.finish()?;
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        bail!("strace is not installed");
    }
    for scenario in scenarios.into_iter().filter(|scenario| !scenario.idle) {
        println!("{}: {}\n\n| | calls a request |\n|---|---|", scenario.name, scenario.title);
        for kind in run::choose(&lab, scenario, &only) {
            println!("{}", row(&machine, &lab, scenario, kind, requests)?);
        }
        println!();
    }
    // What is left of an interrupted run is worth no error.
    let _ = std::fs::remove_dir_all(&lab.scratch);
    Ok(())
}

/// One contender's line.
fn row(
    machine: &Machine,
    lab: &Lab,
    scenario: &Scenario,
    kind: Kind,
    requests: u64,
) -> Result<String> {
    let running = lab.start(kind)?;
    let file = lab.scratch.join("strace.txt");
    let strace = attach(&running.pids, &file)?;
    let mut words = run::load_words(scenario, &running)?;
    words.extend(["--requests".to_owned(), requests.to_string(), "--seconds".into(), "90".into()]);
    let load = machine.tools.command(&words)?.stdout(Stdio::piped()).spawn()?;
    let line = run::last_words(load, LOAD_WITHIN).context("load generator")?;
    let outcome: serde_json::Value = serde_json::from_str(&line)?;
    let answered = outcome["successes"].as_u64().filter(|count| *count > 0);
    let answered = answered.with_context(|| format!("no good answer: {line}"))?;
    detach(strace)?;
    Ok(format!("| {} | {} |", kind.name, describe(&std::fs::read_to_string(&file)?, answered)))
}

fn attach(pids: &[u32], file: &Path) -> Result<Owned> {
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-q", "-o"]).arg(file);
    for pid in pids {
        command.args(["-p", &pid.to_string()]);
    }
    let child = Owned(command.stderr(Stdio::null()).spawn().context("strace")?);
    let began = Instant::now();
    while !pids.iter().all(|pid| is_traced(*pid)) {
        if began.elapsed() > STRACE_WITHIN {
            bail!("strace does not attach; is it permitted?");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}

/// Whether every thread of a process is traced.
fn is_traced(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    })
}

/// Interrupted, strace lets go and writes its table.
fn detach(mut strace: Owned) -> Result<()> {
    rustix::process::kill_process(Pid::from_child(&strace.0), Signal::INT)?;
    let began = Instant::now();
    while strace.0.try_wait()?.is_none() {
        if began.elapsed() > STRACE_WITHIN {
            bail!("strace does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// strace's table as calls a request, the most frequent first.
fn describe(table: &str, requests: u64) -> String {
    let mut calls: Vec<(f64, &str)> = table.lines().filter_map(call).collect();
    calls.iter_mut().for_each(|call| call.0 /= requests as f64);
    calls.sort_by(|left, right| right.0.total_cmp(&left.0));
    let total: f64 = calls.iter().map(|call| call.0).sum();
    let mut text = format!("{total:.2}:");
    for (each, name) in calls.iter().filter(|call| call.0 >= SHOWN_FROM) {
        let _ = write!(text, " {name} {each:.2},");
    }
    text.trim_end_matches([',', ':']).to_owned()
}

/// A line like `99.9  0.1  5  1000  [3]  epoll_wait`; none for heads, rules and the sum.
fn call(line: &str) -> Option<(f64, &str)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let name = *words.last()?;
    let count: u64 = words.get(3)?.parse().ok()?;
    (name != "total" && words.len() >= 5).then_some((count as f64, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_strace_becomes_calls_a_request() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.600000           3      2000           sendto
 35.00    0.350000           2      2100       100 recvfrom
  5.00    0.050000           9         9           futex
------ ----------- ----------- --------- --------- ----------------
100.00    1.000000                  4109       100 total
";
        assert_eq!(describe(table, 1_000), "4.11: recvfrom 2.10, sendto 2.00");
    }
}
