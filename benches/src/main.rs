//! What a request costs, here and now: ZProxy beside its peers in one run.
//!
//! ```text
//! run ──starts──► origin (CPU B) ◄── proxy under test (CPU A) ◄── load (CPU B)
//!                                          ▲ /proc/PID/task/*/schedstat, read by load
//! ```
//!
//! One binary plays every part but the proxies', so that a run needs nothing else: `origin`
//! answers, `load` asks and counts, `launch` pins a process and hands over to it, `run` conducts.
//!
//! Not here: benches of ZProxy's own functions (`benches/micro.rs` of the root package).

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "what is measured runs on the real clock")]

mod run;
mod syscalls;
mod idle;
mod report;
mod record;
mod machine;
mod contender;
mod running;
mod scenario;
mod jwt;
mod launch;
mod load;
mod origin;
mod relay;
mod soak;
mod tls;
mod websocket;
mod process;
mod args;

use std::process::ExitCode;

const USAGE: &str = "\
zproxy-benches run    [--only NAME,…] [--scenario NAME,…] [--rounds N] [--seconds N] [--quick]
                      [--zproxy PATH] [--noop PATH] [--plugins DIR] [--envoy PATH] [--peers DIR]
                      [--cpus A,B[,C]] [--no-fifo] [--out DIR] [--list]
zproxy-benches syscalls [--only NAME,…] [--scenario NAME,…] [--requests N] and the paths of `run`
zproxy-benches idle   [--connections N,…] [--silent | --events] [--only NAME,…]
                      [--bytes-each-max N] [--left-percent-max N]
                      [--zproxy PATH] [--peers DIR] [--out DIR]
zproxy-benches origin [--port N]
zproxy-benches relay  --origin ADDR:PORT [--port N] [--splice]
zproxy-benches load   --target ADDR:PORT [--path PATH] [--body-bytes N] [--post-bytes N]
                      [--header 'K: V']… [--connections N] [--per-request] [--websocket] [--http2] [--rate N]
                      [--tls kept|full|resumed]
                      [--seconds N] [--requests N] [--warmup-ms N] [--watch NAME=PID,PID]…
zproxy-benches soak   --zproxy PATH [--seconds N] [--clients N] [--workers N] [--io epoll|uring]
                      [--seed N] [--guest PATH] [--reload-every SECONDS] [--restart-every SECONDS]
zproxy-benches swap   --zproxy PATH [--guest PATH] [--swaps N] [--clients N] [--workers N] [--io epoll|uring|auto]
zproxy-benches launch [--cpu N]… [--fifo] -- COMMAND [ARGUMENT]…

`run` writes its raw output to benches/runs/<date>-<machine>/ and the table to stdout;
benches/README.md says what the figures mean.";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let done = match command.as_str() {
        "run" => run::command(rest),
        "syscalls" => syscalls::command(rest),
        "idle" => idle::command(rest),
        "origin" => origin::command(rest),
        "relay" => relay::command(rest),
        "load" => load::command(rest),
        "launch" => launch::command(rest),
        "soak" => soak::command(rest),
        "swap" => soak::swap::command(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zproxy-benches {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
