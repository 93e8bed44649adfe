//! Who is measured: starting a proxy in its place, knowing that it answers, ending it.
//!
//! Each start gets a free port, its own folder and a configuration filled in from `peers/`. A
//! contender is ready when a request through it came back right and every listener on its port
//! is its own.
//!
//! Not here: which load it gets (`scenario`), where it runs (`machine`).

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::launch::Place;
use crate::process;

/// A proxy that has not answered by then will not: the first start of ZProxy may compile.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A proxy whose clients are gone has nothing to wait for.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);

/// A program, and what it is told to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No proxy at all: the load generator asks the origin.
    Direct,
    /// `HAProxy`, `peers/haproxy.cfg`.
    Haproxy,
    /// nginx, `peers/nginx.conf`.
    Nginx,
    /// ZProxy, `peers/zproxy.json`, with a chain of so many no-op plugins.
    Zproxy {
        /// Length of the chain.
        plugins: usize,
    },
}

impl Kind {
    /// Name in tables and flags.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Zproxy { plugins: 0 } => "zproxy".to_owned(),
            Self::Zproxy { plugins } => format!("zproxy+{plugins}"),
            Self::Direct => "direct".to_owned(),
            Self::Haproxy => "haproxy".to_owned(),
            Self::Nginx => "nginx".to_owned(),
        }
    }

    /// Whether `--only` with these names lets it take part; `zproxy` names all its chains.
    pub(crate) fn is_among(self, names: &[String]) -> bool {
        let name = self.name();
        let family = name.split('+').next().unwrap_or(&name);
        names.is_empty() || names.iter().any(|given| *given == name || given == family)
    }
}

/// Where the programs are, and what every contender has in common.
pub(crate) struct Lab {
    /// Folder for configurations and logs; removed at the end.
    pub(crate) scratch: PathBuf,
    /// What all forward to.
    pub(crate) origin: SocketAddr,
    /// CPU and priority of the proxy.
    pub(crate) place: Place,
    /// The zproxy binary.
    pub(crate) zproxy: PathBuf,
    /// The plugin that does nothing.
    pub(crate) noop: PathBuf,
    /// Folder of the configurations, with places to fill.
    pub(crate) peers: PathBuf,
}

impl Lab {
    /// Why a contender cannot take part, if so.
    pub(crate) fn missing(&self, kind: Kind) -> Option<String> {
        match kind {
            Kind::Direct => None,
            Kind::Haproxy => missing_program("haproxy", "-v"),
            Kind::Nginx => missing_program("nginx", "-v"),
            Kind::Zproxy { .. } if !self.zproxy.is_file() => {
                Some(format!("there is no {}; build it or give --zproxy", self.zproxy.display()))
            }
            Kind::Zproxy { plugins: 1.. } if !self.noop.is_file() => {
                Some(format!("there is no {}; build it or give --noop", self.noop.display()))
            }
            Kind::Zproxy { .. } => None,
        }
    }

    /// Starts a contender and waits until it serves.
    pub(crate) fn start(&self, kind: Kind) -> Result<Running> {
        if kind == Kind::Direct {
            return Ok(Running { child: None, target: self.origin, pids: vec![], config: None });
        }
        let name = kind.name();
        let folder = self.scratch.join(&name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let port = free_port()?;
        let (file, text) = self.config(kind, port, &folder)?;
        let config = folder.join(file);
        fs::write(&config, &text)?;
        let words = self.words(kind, &config, &folder);
        let log = fs::File::create(folder.join("output.log"))?;
        let child = self
            .place
            .command(&words)?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut running = Running {
            child: Some(child),
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            pids: vec![],
            config: Some((file, text)),
        };
        if let Err(error) = running.become_ready() {
            let log = fs::read_to_string(folder.join("output.log")).unwrap_or_default();
            bail!("{name}: {error:#}; it said:\n{}", log.trim());
        }
        Ok(running)
    }

    fn words(&self, kind: Kind, config: &Path, folder: &Path) -> Vec<String> {
        let config = config.display().to_string();
        match kind {
            Kind::Haproxy => vec!["haproxy".to_owned(), "-db".into(), "-f".into(), config],
            Kind::Nginx => {
                let prefix = folder.display().to_string();
                let errors = folder.join("error.log").display().to_string();
                vec![
                    "nginx".to_owned(),
                    "-p".into(),
                    prefix,
                    "-e".into(),
                    errors,
                    "-c".into(),
                    config,
                ]
            }
            Kind::Zproxy { .. } => {
                vec![self.zproxy.display().to_string(), "run".into(), "--config".into(), config]
            }
            Kind::Direct => vec![],
        }
    }

    /// File name and text of a contender's configuration.
    fn config(&self, kind: Kind, port: u16, folder: &Path) -> Result<(&'static str, String)> {
        let file = match kind {
            Kind::Haproxy => "haproxy.cfg",
            Kind::Nginx => "nginx.conf",
            Kind::Zproxy { .. } => "zproxy.json",
            Kind::Direct => bail!("the origin has no configuration"),
        };
        let template = self.peers.join(file);
        let template = fs::read_to_string(&template)
            .with_context(|| format!("cannot read {}", template.display()))?;
        let mut text = template
            .replace("@PORT@", &port.to_string())
            .replace("@ORIGIN@", &self.origin.to_string())
            .replace("@FOLDER@", &folder.display().to_string());
        if let Kind::Zproxy { plugins } = kind {
            // No plugin at all in the chain of none: it prices a gateway that has no wasm to run.
            let noop = match plugins {
                0 => json!({}),
                _ => json!({ "noop": { "path": fs::canonicalize(&self.noop)? } }),
            };
            text = text
                .replace("\"@PLUGINS@\"", &noop.to_string())
                .replace("\"@CHAIN@\"", &json!(vec!["noop"; plugins]).to_string());
        }
        Ok((file, text))
    }
}

/// A contender that serves.
pub(crate) struct Running {
    child: Option<Child>,
    /// Where to ask.
    pub(crate) target: SocketAddr,
    /// Its processes; none for [`Kind::Direct`].
    pub(crate) pids: Vec<u32>,
    /// File name and text of its configuration.
    pub(crate) config: Option<(&'static str, String)>,
}

impl Running {
    fn become_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("ended at once with {status}");
            }
            if answers(self.target) {
                break;
            }
            if started.elapsed() > READY_WITHIN {
                bail!("did not answer a request with 200 within {READY_WITHIN:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.check()
    }

    /// Takes the list of its processes anew, and makes sure that no other answers for it.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(child) = &mut self.child {
            if let Some(status) = child.try_wait()? {
                bail!("has ended with {status}");
            }
            self.pids = process::tree(child.id());
            process::own_listener(&self.pids, self.target.port()).map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }
}

impl Drop for Running {
    /// Ends the process in its own manner, then by force.
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if !ended(child) {
            // The child has not been waited for, so its number still means this process.
            let _ = rustix::process::kill_process(Pid::from_child(child), Signal::TERM);
        }
        let asked = Instant::now();
        while !ended(child) {
            if asked.elapsed() > STOPPED_WITHIN {
                let _ = child.kill();
                let _ = child.wait();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether a request to `target` comes back with 200.
pub(crate) fn answers(target: SocketAddr) -> bool {
    let second = Duration::from_secs(1);
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&target, second)?;
        stream.set_read_timeout(Some(second))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// A port that was free a moment ago; should another take it, the check of listeners tells.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn missing_program(program: &str, flag: &str) -> Option<String> {
    let run = Command::new(program).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_err().then(|| format!("{program} is not installed; run benches/setup.sh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> Lab {
        Lab {
            scratch: std::env::temp_dir(),
            origin: SocketAddr::from(([127, 0, 0, 1], 4_000)),
            place: Place { cpu: None, fifo: false },
            zproxy: "target/release/zproxy".into(),
            noop: "Cargo.toml".into(),
            peers: "peers".into(),
        }
    }

    #[test]
    fn a_chain_lists_its_plugin_as_often_as_it_is_long() {
        let (_, text) = lab().config(Kind::Zproxy { plugins: 4 }, 81, Path::new("/x")).unwrap();

        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["routes"][0]["middleware"], json!(["noop", "noop", "noop", "noop"]));
        assert_eq!(config["listeners"][0]["address"], "127.0.0.1:81");
        assert_eq!(config["upstreams"]["origin"]["servers"][0]["address"], "127.0.0.1:4000");
        assert!(config["plugins"]["noop"]["path"].as_str().unwrap().ends_with("Cargo.toml"));
    }

    #[test]
    fn no_template_keeps_a_place_to_fill() {
        for kind in [Kind::Haproxy, Kind::Nginx, Kind::Zproxy { plugins: 0 }] {
            let (_, text) = lab().config(kind, 81, Path::new("/x")).unwrap();

            assert!(!text.contains('@'), "{text}");
            assert!(text.contains("127.0.0.1:4000"), "{text}");
        }
    }

    #[test]
    fn only_takes_names_and_families() {
        let only = |names: &[&str]| -> Vec<String> { names.iter().map(|n| (*n).into()).collect() };

        assert!(Kind::Zproxy { plugins: 4 }.is_among(&only(&["zproxy"])));
        assert!(!Kind::Zproxy { plugins: 0 }.is_among(&only(&["zproxy+4"])));
        assert!(!Kind::Nginx.is_among(&only(&["haproxy"])));
        assert!(Kind::Nginx.is_among(&[]));
    }
}
