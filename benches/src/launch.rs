//! Becoming another program on a chosen CPU, with a fixed priority.
//!
//! `launch` prepares its own process and then executes the command in its place, so that the
//! process identity stays the same and no wrapper runs beside what is measured.
//!
//! Not here: deciding who runs where (`machine`).

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use rustix::thread::CpuSet;

use crate::args::Flags;

/// Priority under SCHED_FIFO: above everything that the machine does by the way, below kernel
/// threads that have one. Proxy, origin and load generator share it.
pub(crate) const FIFO_PRIORITY: &str = "10";

/// How a process is to run.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The only CPU it may use; none leaves it everywhere.
    pub(crate) cpu: Option<usize>,
    /// Whether it runs under SCHED_FIFO.
    pub(crate) fifo: bool,
}

impl Place {
    /// The command that runs `words` in this place: this binary's own `launch`.
    pub(crate) fn command(self, words: &[String]) -> Result<Command> {
        self.command_with(words, None)
    }

    /// The same with one more CPU.
    pub(crate) fn command_with(self, words: &[String], more: Option<usize>) -> Result<Command> {
        let myself = std::env::current_exe().context("cannot find the path of this binary")?;
        let mut command = Command::new(myself);
        command.arg("launch");
        for cpu in self.cpu.into_iter().chain(more) {
            command.args(["--cpu", &cpu.to_string()]);
        }
        if self.fifo {
            command.arg("--fifo");
        }
        command.arg("--").args(words);
        Ok(command)
    }
}

/// `zproxy-benches launch`: never returns when all goes well.
pub(crate) fn command(mut arguments: Vec<String>) -> Result<()> {
    let Some(split) = arguments.iter().position(|argument| argument == "--") else {
        bail!("write the command after `--`");
    };
    let mut words = arguments.split_off(split).into_iter().skip(1);
    let mut flags = Flags::parse(arguments, &["fifo"])?;
    let cpus = flags.all("cpu").iter().map(|cpu| cpu.parse()).collect::<Result<Vec<usize>, _>>()?;
    let fifo = flags.switch("fifo");
    flags.finish()?;
    let program = words.next().context("write the command after `--`")?;

    // Whoever conducts may be killed; nothing may go on burning a CPU at a fixed priority then.
    // TERM, so that a master process can end its workers.
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    if !cpus.is_empty() {
        let mut set = CpuSet::new();
        cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(*cpu));
        rustix::thread::sched_setaffinity(None, &set)
            .with_context(|| format!("cannot move to CPUs {cpus:?}"))?;
    }
    let mut command = if fifo {
        let mut chrt = Command::new("chrt");
        chrt.args(["-f", FIFO_PRIORITY, &program]);
        chrt
    } else {
        Command::new(&program)
    };
    Err(command.args(words).exec()).with_context(|| format!("cannot run `{program}`"))
}
