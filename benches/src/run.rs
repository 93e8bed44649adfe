//! The conductor: starts the origin, then contender after contender, and keeps what they show.
//!
//! ```text
//! for each scenario: start every contender
//!     for each round:
//!         each in turn: load as fast as it goes        A B C, next round B C A, …
//!         each in turn: load at a fixed rate           A B C, where latency is looked at
//!     same processes, same listeners? ─► end them
//! ```
//!
//! Windows are short and rounds many, because the speed of shared machines changes from second
//! to second: what is compared should have run close together, and often. Contenders that wait
//! for their turn sleep. One that fails is told of and left out; the run then ends as failed.
//!
//! Not here: what the figures say (`report`), where they are kept (`record`).

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::args::Flags;
use crate::contender::{DIRECT, Kind, Lab};
use crate::machine::{self, Machine};
use crate::process;
use crate::record::Record;
use crate::report::{self, Measurement};
use crate::running::Running;
use crate::scenario::{SCENARIOS, Scenario};

/// Before a window: connections are made, caches and branch predictors know their work.
const WARMUP_MS: u64 = 300;
/// Of so many rounds one also loads the origin directly, to price the tools.
const DIRECT_EVERY: u64 = 3;
/// A proxy that has answered once is given so long to come to rest before its memory is read.
const REST: Duration = Duration::from_secs(1);
/// Memory differs little from start to start.
const IDLE_ROUNDS: u64 = 3;
/// Beyond window and warm-up, a load that has not ended by then is killed.
const LOAD_GRACE: Duration = Duration::from_secs(10);

/// How much is measured.
struct Extent {
    rounds: u64,
    seconds: u64,
    scenarios: Vec<&'static Scenario>,
    only: Vec<String>,
}

/// `zproxy-benches run`.
pub(crate) fn command(arguments: Vec<String>) -> Result<()> {
    let command_line = arguments.join(" ");
    let mut flags = Flags::parse(arguments, &["quick", "no-fifo", "list"])?;
    if flags.switch("list") {
        for scenario in SCENARIOS {
            let names: Vec<&str> = scenario.contenders.iter().map(|kind| kind.name).collect();
            println!("{:<15} {}\n{:<15} {}", scenario.name, scenario.title, "", names.join(" "));
        }
        return Ok(());
    }
    let quick = flags.switch("quick");
    let rounds = flags.within("rounds", 1..=50)?;
    let seconds = flags.within("seconds", 1..=60)?;
    let extent = Extent {
        rounds: rounds.unwrap_or(if quick { 3 } else { 5 }),
        seconds: seconds.unwrap_or(1),
        scenarios: chosen(&flags.words("scenario"))?,
        only: flags.words("only"),
    };
    let cpus = flags.words("cpus").iter().map(|cpu| cpu.parse()).collect::<Result<Vec<_>, _>>()?;
    let machine = Machine::find(&cpus, !flags.switch("no-fifo"))?;
    let today = machine::said("date", &["-u", "+%Y-%m-%d"]);
    let folder = flags.text("out");
    let folder = folder.unwrap_or(format!("benches/runs/{today}-{}", machine::kind()));
    let (origin, lab) = prepare(&machine, &mut flags)?;
    flags.finish()?;

    let mut record = Record::create(Path::new(&folder))?;
    record.run(&facts(&command_line, &machine, &lab, &extent))?;
    machine.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let outcome = measure(&machine, &lab, &extent, origin.0.id(), &mut record);
    // What is left of an interrupted run is worth no error.
    let _ = std::fs::remove_dir_all(&lab.scratch);
    eprintln!("raw output: {}", record.folder().display());
    outcome
}

/// Starts the origin and takes the flags that say where everything is.
pub(crate) fn prepare(machine: &Machine, flags: &mut Flags) -> Result<(Owned, Lab)> {
    let (origin, address) = start_origin(machine)?;
    let mut lab = Lab::new(flags, address, machine.proxy);
    lab.second_cpu = machine.second_cpu;
    Ok((origin, lab))
}

/// The scenarios of these names; all without any.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let find = |name: &String| {
        let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
        found.with_context(|| format!("no scenario `{name}`; --list shows them"))
    };
    names.iter().map(find).collect()
}

fn facts(command_line: &str, machine: &Machine, lab: &Lab, extent: &Extent) -> Value {
    let scenario = |scenario: &&Scenario| {
        json!({
            "name": scenario.name,
            "title": scenario.title,
            "connections": scenario.connections,
            "connection_per_request": scenario.per_request,
            "rate": scenario.rate,
            "goals": scenario.goals.iter().map(|goal| format!("{goal:?}")).collect::<Vec<_>>(),
        })
    };
    let zproxy = lab.zproxy.display().to_string();
    json!({
        "command": format!("zproxy-benches run {command_line}").trim_end(),
        "began": machine::said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "rounds": extent.rounds,
        "window_seconds": extent.seconds,
        "warmup_ms": WARMUP_MS,
        "versions": {
            "benches": env!("CARGO_PKG_VERSION"),
            "commit": machine::said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            "zproxy": machine::said(&zproxy, &["version"]),
            "haproxy": machine::said("haproxy", &["-v"]),
            "nginx": machine::said("nginx", &["-v"]),
            "envoy": machine::said(&lab.envoy.display().to_string(), &["--version"]),
        },
        "machine": machine.facts(),
        "scenarios": extent.scenarios.iter().map(scenario).collect::<Vec<_>>(),
    })
}

/// A child that ends with this run.
pub(crate) struct Owned(pub(crate) Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_origin(machine: &Machine) -> Result<(Owned, SocketAddr)> {
    let words = [own_path()?, "origin".to_owned()];
    let child = machine.tools.command(&words)?.stdout(Stdio::piped()).spawn()?;
    let mut child = Owned(child);
    let mut line = String::new();
    let stdout = child.0.stdout.take().context("the origin has no stdout")?;
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim().parse().context("the origin did not start")?;
    Ok((child, address))
}

fn measure(
    machine: &Machine,
    lab: &Lab,
    extent: &Extent,
    origin: u32,
    record: &mut Record,
) -> Result<()> {
    let mut failures = 0;
    let mut tables = String::new();
    let mut goals = Vec::new();
    for scenario in &extent.scenarios {
        let bench = Bench { machine, lab, scenario, seconds: extent.seconds, origin };
        let taking_part = choose(lab, scenario, &extent.only);
        if taking_part.is_empty() {
            continue;
        }
        let mut failed = |error: anyhow::Error| {
            failures += 1;
            eprintln!("{}: {error:#}", scenario.name);
        };
        let measurements = if scenario.idle {
            bench.measure_idle(&taking_part, extent.rounds, record, &mut failed)?
        } else {
            bench.measure(&taking_part, extent.rounds, record, &mut failed)?
        };
        let table = report::table(scenario, &measurements);
        println!("{table}");
        tables.push_str(&table);
        tables.push('\n');
        goals.extend(report::goals(scenario, &measurements));
        record.table(&format!("{tables}{}", report::goal_table(&goals)))?;
    }
    println!("{}", report::goal_table(&goals));
    if failures > 0 {
        bail!("{failures} contenders failed");
    }
    if tables.is_empty() {
        bail!("nothing was measured");
    }
    Ok(())
}

/// Who takes part: asked for, and there.
pub(crate) fn choose(lab: &Lab, scenario: &Scenario, only: &[String]) -> Vec<Kind> {
    let mut chosen = Vec::new();
    for kind in scenario.contenders.iter().filter(|kind| kind.is_among(only)) {
        match lab.missing(*kind) {
            None => chosen.push(*kind),
            Some(why) => eprintln!("note: {} without {}: {why}", scenario.name, kind.name),
        }
    }
    chosen
}

/// One scenario.
struct Bench<'a> {
    machine: &'a Machine,
    lab: &'a Lab,
    scenario: &'a Scenario,
    seconds: u64,
    /// The origin's process.
    origin: u32,
}

/// A contender that takes part, and its saturated load of this round.
struct Entrant {
    kind: Kind,
    running: Running,
    saturated: Value,
}

impl Bench<'_> {
    /// All rounds. A contender that fails leaves and is handed to `failed`; an error is ours.
    fn measure(
        &self,
        kinds: &[Kind],
        rounds: u64,
        record: &mut Record,
        failed: &mut dyn FnMut(anyhow::Error),
    ) -> Result<Vec<Measurement>> {
        let running = self.lab.start(DIRECT)?;
        let mut direct = Entrant { kind: DIRECT, running, saturated: Value::Null };
        let mut entrants = Vec::new();
        for kind in kinds {
            match self.lab.start(*kind) {
                Ok(running) => {
                    if let Some((file, text)) = &running.config {
                        record.config(kind.name, file, text)?;
                    }
                    entrants.push(Entrant { kind: *kind, running, saturated: Value::Null });
                }
                Err(error) => failed(error),
            }
        }
        let mut measurements = Vec::new();
        for round in 0..rounds {
            // The origin speaks HTTP/1.1 only.
            if round % DIRECT_EVERY == 0 && !self.scenario.http2 {
                direct.saturated = self.load(&direct.running, None)?;
                measurements.push(self.finish_round(&mut direct, round, record)?);
            }
            for entrant in &mut entrants {
                entrant.saturated = self.load(&entrant.running, None)?;
            }
            entrants.retain_mut(|entrant| match self.finish_round(entrant, round, record) {
                Ok(measurement) => {
                    measurements.push(measurement);
                    true
                }
                Err(error) => {
                    failed(error.context(entrant.kind.name));
                    false
                }
            });
            // Whoever was first is last in the next round: no place in the order is an advantage.
            if !entrants.is_empty() {
                entrants.rotate_left(1);
            }
        }
        Ok(measurements)
    }

    /// Starts each anew in each round, and looks at what it holds.
    fn measure_idle(
        &self,
        kinds: &[Kind],
        rounds: u64,
        record: &mut Record,
        failed: &mut dyn FnMut(anyhow::Error),
    ) -> Result<Vec<Measurement>> {
        let mut measurements = Vec::new();
        for (round, kind) in
            (0..rounds.min(IDLE_ROUNDS)).flat_map(|r| kinds.iter().map(move |k| (r, k)))
        {
            let running = match self.lab.start(*kind) {
                Ok(running) => running,
                Err(error) => {
                    failed(error);
                    continue;
                }
            };
            if let Some((file, text)) = &running.config {
                record.config(kind.name, file, text)?;
            }
            std::thread::sleep(REST);
            let line = json!({
                "scenario": self.scenario.name,
                "contender": kind.name,
                "round": round,
                "processes": running.pids.len(),
                "resident_kib": process::resident_kib(&running.pids),
            });
            record.measurement(&line)?;
            measurements.extend(Measurement::from_json(&line));
        }
        Ok(measurements)
    }

    /// The second load of a round, where there is one, and the contender's figures from both.
    fn finish_round(
        &self,
        entrant: &mut Entrant,
        round: u64,
        record: &mut Record,
    ) -> Result<Measurement> {
        let running = &mut entrant.running;
        let paced = match self.scenario.rate {
            Some(rate) => self.load(running, Some(rate))?,
            None => Value::Null,
        };
        let before = running.pids.clone();
        running.check()?;
        if running.pids != before {
            bail!("its processes changed under the load; their CPU time is not whole");
        }
        let line = json!({
            "scenario": self.scenario.name,
            "contender": entrant.kind.name,
            "round": round,
            "saturated": entrant.saturated,
            "paced": paced,
            "resident_kib": process::resident_kib(&running.pids),
        });
        record.measurement(&line)?;
        Measurement::from_json(&line).with_context(|| format!("no good answer: {line}"))
    }

    /// One load, in a process of its own beside the origin.
    fn load(&self, running: &Running, rate: Option<u64>) -> Result<Value> {
        let mut words = load_words(self.scenario, running)?;
        let mut flag = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        flag("seconds", self.seconds.to_string());
        flag("warmup-ms", WARMUP_MS.to_string());
        flag("watch", format!("origin={}", self.origin));
        if !running.pids.is_empty() {
            let pids: Vec<String> = running.pids.iter().map(u32::to_string).collect();
            flag("watch", format!("proxy={}", pids.join(",")));
        }
        if let Some(rate) = rate {
            flag("rate", rate.to_string());
        }
        let child = self.machine.tools.command(&words)?.stdout(Stdio::piped()).spawn()?;
        let limit =
            Duration::from_secs(self.seconds) + Duration::from_millis(WARMUP_MS) + LOAD_GRACE;
        let line = last_words(child, limit).context("load generator")?;
        serde_json::from_str(&line).context("the load generator's JSON")
    }
}

/// The command that loads a contender as the scenario says, but for how long.
pub(crate) fn load_words(scenario: &Scenario, running: &Running) -> Result<Vec<String>> {
    let mut words = vec![own_path()?, "load".to_owned()];
    let mut flag = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    flag("target", running.target.to_string());
    flag("path", scenario.path.to_owned());
    flag("body-bytes", scenario.body_bytes.to_string());
    flag("connections", scenario.connections.to_string());
    scenario.headers.iter().for_each(|header| flag("header", (*header).to_owned()));
    if let Some(bytes) = scenario.post_bytes {
        flag("post-bytes", bytes.to_string());
    }
    if let Some(sessions) = scenario.tls.filter(|_| running.tls) {
        words.extend(["--tls".to_owned(), sessions.name().to_owned()]);
    }
    words.extend(scenario.per_request.then(|| "--per-request".to_owned()));
    words.extend(scenario.websocket.then(|| "--websocket".to_owned()));
    words.extend(scenario.http2.then(|| "--http2".to_owned()));
    Ok(words)
}

/// What a child wrote to its stdout, once it has ended by itself within `limit`. Looks rarely:
/// the looking costs CPU time beside what is measured.
pub(crate) fn last_words(child: Child, limit: Duration) -> Result<String> {
    let mut child = Owned(child);
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        if began.elapsed() > limit {
            bail!("has not ended within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        bail!("ended with {status}");
    }
    let stdout = child.0.stdout.take().context("no stdout")?;
    Ok(std::io::read_to_string(stdout)?)
}

fn own_path() -> Result<String> {
    let path = std::env::current_exe().context("cannot find the path of this binary")?;
    Ok(Path::new(&path).display().to_string())
}
