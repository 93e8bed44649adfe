//! Clients and upstreams that die at every moment, and what is left of them: nothing.

#![allow(clippy::cast_possible_truncation, reason = "chance may be cut short")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Gateway, Upstream, Wire, eventually, try_connect};

/// Clients at a time, and what each one does in its life.
const CLIENTS: usize = 60;
const ROUNDS: usize = 6;

/// Chance that a failed test can repeat: the seed is the number of the client.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A body whose every byte tells where it belongs.
fn body(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(31) ^ seed) as u8).collect()
}

/// `/<manner>/<seed>/<length>`: answers with that body in that manner.
fn unreliable() -> Upstream {
    Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            let parts: Vec<_> = request.target().split('/').skip(1).map(str::to_owned).collect();
            let number = |at: usize| parts[at].parse::<usize>().unwrap();
            let body = body(number(1) as u64, number(2));
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            match parts[0].as_str() {
                "dies-in-the-head" => return connection.try_send(&head[..20]),
                "dies-in-the-body" => {
                    connection.try_send(head)?;
                    return connection.try_send(&body[..body.len() / 2]);
                }
                "resets" => {
                    connection.try_send(head)?;
                    connection.reset_at_end();
                    return connection.try_send(&body[..body.len() / 2]);
                }
                "sleeps" => {
                    // Longer than the gateway waits.
                    std::thread::sleep(Duration::from_millis(400));
                    return Ok(());
                }
                "closes" => {
                    connection.try_send(head)?;
                    return connection.try_send(&body);
                }
                _ => {
                    connection.try_send(head)?;
                    connection.try_send(&body)?;
                }
            }
        }
    })
}

const MANNERS: [&str; 8] = [
    "answers",
    "answers",
    "answers",
    "closes",
    "dies-in-the-head",
    "dies-in-the-body",
    "resets",
    "sleeps",
];

/// Requests that were answered whole.
type Whole = Arc<AtomicUsize>;

/// One client; what it gets whole must be what was asked for.
fn client(mut wire: Wire, dice: &mut Dice, whole: &Whole) -> Option<()> {
    for _ in 0..4 {
        let manner = MANNERS[dice.roll(8) as usize];
        let (seed, length) = (dice.roll(256), dice.roll(60_000) as usize);
        let upload = if dice.roll(3) == 0 { dice.roll(50_000) as usize } else { 0 };
        let method = if upload > 0 { "POST" } else { "GET" };
        let head = format!(
            "{method} /{manner}/{seed}/{length} HTTP/1.1\r\nHost: a\r\nContent-Length: {upload}\r\n\r\n"
        );
        match dice.roll(8) {
            0 => {
                wire.reset_at_end();
                wire.try_send(&head[..head.len() / 2]).ok()?;
                return None;
            }
            1 => {
                wire.reset_at_end();
                wire.try_send(&head).ok()?;
                wire.try_send(vec![b'u'; upload / 2]).ok()?;
                return None;
            }
            2 => {
                wire.try_send(&head).ok()?;
                wire.try_send(vec![b'u'; upload]).ok()?;
                wire.reset_at_end();
                let _ = wire.take(dice.roll(length as u64 + 50) as usize);
                return None;
            }
            3 => {
                wire.try_send(&head).ok()?;
                wire.try_send(vec![b'u'; upload]).ok()?;
                return None;
            }
            _ => {
                wire.try_send(&head).ok()?;
                // The gateway may have answered, and closed.
                let _ = wire.try_send(vec![b'u'; upload]);
                let answer = wire.try_response_to(method).ok()?;
                if answer.status() == 200 {
                    assert!(answer.body == body(seed, length), "wrong bytes: {head}");
                    whole.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert!([502, 504].contains(&answer.status()), "{answer:?}");
                }
            }
        }
    }
    Some(())
}

fn run_clients(
    address: &str,
    until: &Arc<AtomicBool>,
) -> (Whole, Vec<std::thread::JoinHandle<()>>) {
    let whole = Whole::default();
    let clients = (0..CLIENTS).map(|number| {
        let (address, whole, until) = (address.to_owned(), Arc::clone(&whole), Arc::clone(until));
        std::thread::spawn(move || {
            let mut dice = Dice(number as u64);
            for _ in 0..ROUNDS {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(wire) = try_connect(&address) else { return };
                client(wire, &mut dice, &whole);
            }
        })
    });
    let clients = clients.collect();
    (whole, clients)
}

fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::start(json!({
        "upstreams": { "test": {
            "servers": [{ "address": upstream.address() }],
            "timeouts": { "response_ms": 200 },
            "keepalive": { "idle_ms": 500 },
        } },
        "routes": [{ "path": "/", "upstream": "test" }],
        "drain_timeout_ms": 15_000,
    }))
}

fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.id())).unwrap().count()
}

#[test]
fn nothing_is_left_of_clients_and_upstreams_that_died() {
    let upstream = unreliable();
    let gateway = gateway(&upstream);
    assert_eq!(gateway.get("/answers/1/10").status(), 200);
    let at_rest = |worker: &Value| {
        let ring = &worker["ring"];
        let empty =
            ring.is_null() || *ring == json!({ "sockets": 0, "operations": 0, "buffers": 0 });
        worker["connections"] == 0 && empty
    };
    let rests = || {
        let told = gateway.admin_json("/workers");
        told["workers"].as_array().unwrap().iter().all(at_rest).then_some(())
    };
    eventually("the beginning", rests);
    let before = descriptors(&gateway);

    let (whole, clients) = run_clients(gateway.address(), &Arc::default());
    for client in clients {
        client.join().unwrap();
    }

    assert!(whole.load(Ordering::Relaxed) > 0);
    eventually("every connection, operation and buffer to be given back", rests);
    eventually("every descriptor to be closed", || (descriptors(&gateway) <= before).then_some(()));
    assert_eq!(gateway.get("/answers/7/1000").body, body(7, 1000));
}

#[test]
fn a_drain_in_the_middle_of_it_ends_in_peace() {
    let upstream = unreliable();
    let mut gateway = gateway(&upstream);
    let stop = Arc::default();
    let (whole, clients) = run_clients(gateway.address(), &stop);
    eventually("some answers", || (whole.load(Ordering::Relaxed) > 50).then_some(()));

    gateway.signal(Signal::TERM);

    assert_eq!(gateway.exit_code(), 0);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
}
