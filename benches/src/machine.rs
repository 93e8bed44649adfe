//! The machine as a run finds it: which CPUs, which priority, and what a reader should know.
//!
//! Not here: changing anything about it.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::launch::{FIFO_PRIORITY, Place};

/// Above this load average others keep a CPU busy for a good part of the time.
const LOAD_AVERAGE_QUIET: f64 = 0.5;

/// Who runs where.
pub(crate) struct Machine {
    /// The proxy under test, alone.
    pub(crate) proxy: Place,
    /// Of a proxy's second worker, where it has one: a third CPU, or that of the tools.
    pub(crate) second_cpu: Option<usize>,
    /// Origin and load generator.
    pub(crate) tools: Place,
    /// What makes this run worth less than it could be.
    pub(crate) notes: Vec<String>,
}

impl Machine {
    /// Picks CPUs, those `given` or the first allowed, and SCHED_FIFO where permitted.
    pub(crate) fn find(given: &[usize], fifo_wanted: bool) -> Result<Self> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let mut cpus = (0..1_024).filter(|cpu| allowed.is_set(*cpu));
        let mut notes = Vec::new();
        let (proxy, tools, third) = match given {
            [] => {
                let first = cpus.next().context("no CPU is allowed")?;
                (first, cpus.next().unwrap_or(first), cpus.next())
            }
            [proxy, tools] => (*proxy, *tools, None),
            [proxy, tools, third] => (*proxy, *tools, Some(*third)),
            _ => bail!("--cpus takes the proxy's, the tools' and perhaps that of a second worker"),
        };
        let second_cpu = Some(third.unwrap_or(tools)).filter(|cpu| *cpu != proxy);
        if second_cpu == Some(tools) {
            notes.push("a second worker shares its CPU with origin and load generator".to_owned());
        }
        if proxy == tools {
            notes.push(
                "proxy, origin and load generator share one CPU: rates and latencies say little"
                    .to_owned(),
            );
        }
        let load_average = load_average();
        if load_average > LOAD_AVERAGE_QUIET {
            notes.push(format!("the machine is not quiet: load average {load_average}"));
        }
        let fifo = fifo_wanted && fifo_is_permitted();
        if !fifo {
            notes.push(
                "SCHED_FIFO is not used or not permitted: other processes leave artefacts"
                    .to_owned(),
            );
        }
        let place = |cpu| Place { cpu: Some(cpu), fifo };
        Ok(Self { proxy: place(proxy), second_cpu, tools: place(tools), notes })
    }

    /// Everything about the machine that figures may depend on.
    pub(crate) fn facts(&self) -> Value {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        json!({
            "uname": said("uname", &["-srvm"]),
            "lscpu": said("lscpu", &[]),
            "proxy_cpu": self.proxy.cpu,
            "tools_cpu": self.tools.cpu,
            "second_worker_cpu": self.second_cpu,
            "scheduling": if self.proxy.fifo { "SCHED_FIFO 10" } else { "SCHED_OTHER" },
            "sched_rt_runtime_us": read("/proc/sys/kernel/sched_rt_runtime_us"),
            "somaxconn": read("/proc/sys/net/core/somaxconn"),
            "local_ports": read("/proc/sys/net/ipv4/ip_local_port_range"),
            "tcp_congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
            "clocksource":
                read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            "load_average": load_average(),
            "notes": self.notes,
        })
    }
}

/// A short name for this kind of machine, fit for a folder: `amd-epyc-2cpu`.
pub(crate) fn kind() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.unwrap_or(": unknown").trim_start_matches([' ', '\t', ':']);
    let count = information.lines().filter(|line| line.starts_with("processor")).count();
    slug(&format!("{model} {count}cpu"))
}

/// Over the last minute; 0 where it cannot be read.
fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

fn fifo_is_permitted() -> bool {
    let run =
        Command::new("chrt").args(["-f", FIFO_PRIORITY, "true"]).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

/// What a program says on stdout or, failing that, stderr; empty when it cannot be run.
pub(crate) fn said(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).stdin(Stdio::null()).output() else {
        return String::new();
    };
    let bytes = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_fit_for_a_folder() {
        assert_eq!(slug("AMD EPYC (TM) 2cpu"), "amd-epyc-tm-2cpu");
        assert!(kind().ends_with("cpu"));
    }

    #[test]
    fn given_cpus_are_taken_and_sharing_is_noted() {
        let machine = Machine::find(&[3, 3], false).unwrap();

        assert_eq!((machine.proxy.cpu, machine.tools.cpu), (Some(3), Some(3)));
        assert!(machine.notes.iter().any(|note| note.contains("share one CPU")));
        assert!(machine.notes.iter().any(|note| note.contains("SCHED_FIFO")));
    }
}
