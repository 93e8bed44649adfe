//! A contender that serves: knowing that it does, by itself and nobody else, and ending it.
//!
//! Not here: how it is started (`contender`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal};

use crate::{process, tls};

/// A proxy that has not answered by then will not: the first start of ZProxy may compile.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A proxy whose clients are gone has nothing to wait for.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);

/// A contender that serves.
pub(crate) struct Running {
    pub(crate) child: Option<Child>,
    /// Where to ask.
    pub(crate) target: SocketAddr,
    /// Whether by TLS.
    pub(crate) tls: bool,
    /// Its processes; none when the origin itself is asked.
    pub(crate) pids: Vec<u32>,
    /// File name and text of its configuration, if it has one.
    pub(crate) config: Option<(&'static str, String)>,
}

impl Running {
    pub(crate) fn become_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("ended at once with {status}");
            }
            if if self.tls { tls::answers(self.target) } else { answers(self.target) } {
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
