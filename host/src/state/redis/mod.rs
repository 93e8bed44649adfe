//! Counts and quotas in Redis, shared by several gateways: what is said there, and what its answers mean.
//!
//! A request asks once, whatever it takes from: one script reads all of its quotas, decides, and writes all or
//! none. Redis runs one script at a time, so that this is exact over all gateways, and it says what time it is, so
//! that their clocks do not matter. A quota is kept as in memory (`counters`), as its theoretical arrival time in
//! microseconds and a rest: `"US PART OF"`. The script adds and compares; what needs more digits than the numbers
//! of Lua have (53 bits) is worked out here.
//!
//! Keys are `PREFIX:PLUGIN:KIND:KEY` and end by themselves: a quota a second after it is whole again, a count
//! with its window.
//!
//! Not here: connections (`plugin::remote`), what to do without Redis (`plugin::host`).

mod resp;

pub use resp::{NotRedis, Reply, read, write};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::counters::{Decision, Quota, Shortage, Wanted, decide};

/// How long a count without a window is kept after its last change.
const FOREVER_MS: u64 = 30 * 24 * 3600 * 1000;

/// The most microseconds that the script is told of: with today's date they still are a whole number to it.
const SPAN_US_MAX: u128 = 1 << 52;

/// Reads an arrival time as a distance from now, in microseconds and parts of `of`, and prepares another.
const ARRIVAL: &str = "
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local held, ends = {}, {}
local function arrival(key, of)
  local known = held[key] or redis.call('GET', key) or ''
  local us, part, was = string.match(known, '^(%d+) (%d+) (%d+)$')
  if not us then return 0, 0 end
  us, part, was = tonumber(us) - now, tonumber(part), tonumber(was)
  if was ~= of then part = math.ceil(part * of / was) end
  if part >= of then us, part = us + 1, 0 end
  if us < 0 then return 0, 0 end
  return us, part
end
local function hold(key, us, part, of)
  held[key] = string.format('%.0f %.0f %.0f', now + us, part, of)
  ends[key] = string.format('%.0f', math.ceil(us / 1000) + 1000)
end
local function keep()
  for key, value in pairs(held) do redis.call('SET', key, value, 'PX', ends[key]) end
end
";

/// For each key: cost and burst, each in microseconds and parts, and of what these are parts.
const TAKE: &str = "
local found, all = {1}, true
for i, key in ipairs(KEYS) do
  local a = i * 5 - 4
  local of = tonumber(ARGV[a + 4])
  local us, part = arrival(key, of)
  found[i * 2], found[i * 2 + 1] = us, part
  us, part = us + tonumber(ARGV[a]), part + tonumber(ARGV[a + 1])
  if part >= of then us, part = us + 1, part - of end
  local full, rest = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  if us > full or (us == full and part > rest) then all = false end
  if ARGV[a] ~= '0' or ARGV[a + 1] ~= '0' then hold(key, us, part, of) end
end
if all then keep() else found[1] = 0 end
return found
";

const GIVE_BACK: &str = "
local of = tonumber(ARGV[3])
local us, part = arrival(KEYS[1], of)
us, part = us - tonumber(ARGV[1]), part - tonumber(ARGV[2])
if part < 0 then us, part = us - 1, part + of end
if us < 0 then redis.call('DEL', KEYS[1]) else hold(KEYS[1], us, part, of) keep() end
return 0
";

const ADD: &str = "
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return count
";

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Takes from all of these, or from none.
    Take(Vec<Wanted>),
    /// Puts back what was taken.
    GiveBack(Wanted),
    /// Adds to a count.
    Add {
        /// Under this key,
        key: Vec<u8>,
        /// so much,
        delta: i64,
        /// in the window of this length that is current
        window_ms: u32,
        /// at this time.
        unix_ms: u64,
    },
    /// Asks for a count.
    Get {
        /// Under this key,
        key: Vec<u8>,
        /// in the window of this length that is current
        window_ms: u32,
        /// at this time.
        unix_ms: u64,
    },
}

/// Whose counters are meant.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// What all keys begin with.
    pub prefix: &'a str,
    /// The plugin's name.
    pub plugin: &'a str,
}

impl Owner<'_> {
    fn key(self, kind: std::fmt::Arguments<'_>, key: &[u8]) -> Vec<u8> {
        let mut whole = format!("{}:{}:{kind}:", self.prefix, self.plugin).into_bytes();
        whole.extend_from_slice(key);
        whole
    }

    fn quota(self, wanted: &Wanted) -> Vec<u8> {
        self.key(format_args!("q"), &wanted.key)
    }

    fn window(self, key: &[u8], window_ms: u32, unix_ms: u64) -> Vec<u8> {
        let number = unix_ms.checked_div(window_ms.into()).unwrap_or(0);
        self.key(format_args!("w{window_ms}:{number}"), key)
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// What came of taking.
    Taken(Result<Vec<Decision>, Shortage>),
    /// Nothing is to be said.
    Done,
    /// A count.
    Count(i64),
}

/// What one worker has counted of asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteCounts {
    /// Whether there is a connection.
    pub connected: bool,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions that were not.
    pub unanswered: u64,
    /// Connections made.
    pub connects: u64,
    /// Connections that could not be made, or were lost.
    pub failures: u64,
}

/// What every script is called by.
#[derive(Debug)]
pub struct Scripts {
    take: Script,
    give_back: Script,
    add: Script,
}

#[derive(Debug)]
struct Script {
    text: String,
    /// SHA-1 in hexadecimal: the name that Redis gives it.
    digest: String,
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let text = parts.concat();
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let digest = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { text, digest }
    }
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            take: Script::new(&[ARRIVAL, TAKE]),
            give_back: Script::new(&[ARRIVAL, GIVE_BACK]),
            add: Script::new(&[ADD]),
        }
    }
}

impl Scripts {
    /// Adds the commands that make them known; how many there are.
    pub fn load(&self, out: &mut Vec<u8>) -> usize {
        let all = [&self.take, &self.give_back, &self.add];
        for script in all {
            write(out, &[b"SCRIPT", b"LOAD", script.text.as_bytes()]);
        }
        all.len()
    }
}

impl Ask {
    /// Adds this as a command.
    pub fn write(&self, scripts: &Scripts, owner: Owner<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Take(wanted) => {
                let keys: Vec<Vec<u8>> = wanted.iter().map(|one| owner.quota(one)).collect();
                let numbers: Vec<String> = wanted
                    .iter()
                    .flat_map(|one| {
                        if one.quota.allows_nothing() {
                            return [1, 0, 0, 0, 1];
                        }
                        let quota = one.quota;
                        let (cost, burst) = (span(quota, one.cost), span(quota, quota.burst));
                        [cost.0, cost.1, burst.0, burst.1, u128::from(quota.count)]
                    })
                    .map(|number| number.to_string())
                    .collect();
                call(&scripts.take, &keys, &numbers, out);
            }
            Self::GiveBack(one) => {
                let cost = span(one.quota, one.cost);
                let numbers = [cost.0, cost.1, u128::from(one.quota.count)];
                let numbers = numbers.map(|number| number.to_string());
                call(&scripts.give_back, &[owner.quota(one)], &numbers, out);
            }
            Self::Add { key, delta, window_ms, unix_ms } => {
                let window = owner.window(key, *window_ms, *unix_ms);
                // A gateway whose clock is behind may still count in it.
                let kept = if *window_ms == 0 { FOREVER_MS } else { u64::from(*window_ms) * 2 };
                call(&scripts.add, &[window], &[delta.to_string(), kept.to_string()], out);
            }
            Self::Get { key, window_ms, unix_ms } => {
                write(out, &[b"GET", &owner.window(key, *window_ms, *unix_ms)]);
            }
        }
    }

    /// What a reply to this means; `None`: nothing that this could be answered by.
    pub fn read(&self, reply: &Reply) -> Option<Told> {
        match (self, reply) {
            (Self::Take(wanted), Reply::Array(items)) => {
                let numbers = items.iter().map(|item| match item {
                    Reply::Integer(number) => u64::try_from(*number).ok(),
                    _ => None,
                });
                let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
                let (taken, found) = numbers.split_first()?;
                taken_of(wanted, *taken == 1, found).map(Told::Taken)
            }
            (Self::GiveBack(_), Reply::Integer(_)) => Some(Told::Done),
            (Self::Add { .. }, Reply::Integer(count)) => Some(Told::Count(*count)),
            (Self::Get { .. }, Reply::Bulk(None)) => Some(Told::Count(0)),
            (Self::Get { .. }, Reply::Bulk(Some(text))) => {
                Some(Told::Count(std::str::from_utf8(text).ok()?.parse().ok()?))
            }
            _ => None,
        }
    }
}

/// The decisions, from the arrival times that the script has found.
fn taken_of(
    wanted: &[Wanted],
    all: bool,
    found: &[u64],
) -> Option<Result<Vec<Decision>, Shortage>> {
    if found.len() != wanted.len() * 2 {
        return None;
    }
    let mut decisions: Vec<Decision> = wanted
        .iter()
        .zip(found.chunks_exact(2))
        .map(|(one, found)| {
            let arrival = u128::from(found[0]) * u128::from(one.quota.count) + u128::from(found[1]);
            decide(one.quota, one.cost, arrival, 0).0
        })
        .collect();
    if all {
        return Some(Ok(decisions));
    }
    if let Some(index) = decisions.iter().position(|decision| !decision.allowed) {
        return Some(Err(Shortage { index, decision: decisions.swap_remove(index) }));
    }
    // More than a century was cut short for the script, so that it has refused what would be allowed here.
    let index = wanted.iter().position(|one| span(one.quota, one.quota.burst).0 == SPAN_US_MAX)?;
    let never = Decision {
        allowed: false,
        remaining: 0,
        retry_after_ms: u32::MAX,
        reset_after_ms: u32::MAX,
    };
    Some(Err(Shortage { index, decision: never }))
}

/// What so many of a quota take to come back: microseconds, and the rest as parts of the quota's count.
fn span(quota: Quota, cost: u32) -> (u128, u128) {
    let units = u128::from(cost) * u128::from(quota.period_ms) * 1000;
    let of = u128::from(quota.count.max(1));
    ((units / of).min(SPAN_US_MAX), units % of)
}

fn call(script: &Script, keys: &[Vec<u8>], numbers: &[String], out: &mut Vec<u8>) {
    let count = keys.len().to_string();
    let mut parts: Vec<&[u8]> = vec![b"EVALSHA", script.digest.as_bytes(), count.as_bytes()];
    parts.extend(keys.iter().map(Vec::as_slice));
    parts.extend(numbers.iter().map(String::as_bytes));
    write(out, &parts);
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'_> = Owner { prefix: "z", plugin: "p" };

    fn wanted(key: &str, count: u32, cost: u32) -> Wanted {
        let quota = Quota { count, period_ms: 60_000, burst: count };
        Wanted { key: key.into(), quota, cost }
    }

    #[test]
    fn all_quotas_of_a_request_are_one_command() {
        let (scripts, mut out) = (Scripts::default(), Vec::new());

        Ask::Take(vec![wanted("a", 7, 1), wanted("b", 60, 2)]).write(&scripts, OWNER, &mut out);

        let Ok(Some((Reply::Array(parts), taken))) = read(&out) else { panic!("{out:?}") };
        assert_eq!(taken, out.len());
        let text = |part: &Reply| match part {
            Reply::Bulk(Some(text)) => String::from_utf8(text.clone()).unwrap(),
            other => panic!("{other:?}"),
        };
        let parts: Vec<String> = parts.iter().map(text).collect();
        assert_eq!(parts[0], "EVALSHA");
        // A minute divided by 7 is 8,571,428 4/7 µs.
        let numbers = ["8571428", "4", "60000000", "0", "7", "2000000", "0", "60000000", "0", "60"];
        assert_eq!(parts[2..5], ["2", "z:p:q:a", "z:p:q:b"]);
        assert_eq!(parts[5..], numbers);
    }

    #[test]
    fn replies_become_decisions() {
        let ask = Ask::Take(vec![wanted("a", 60, 1), wanted("b", 60, 1)]);
        let reply = |numbers: &[i64]| {
            Reply::Array(numbers.iter().map(|number| Reply::Integer(*number)).collect())
        };

        let Some(Told::Taken(Ok(taken))) = ask.read(&reply(&[1, 0, 0, 58_500_000, 0])) else {
            panic!("not taken")
        };
        assert_eq!((taken[0].remaining, taken[0].reset_after_ms), (59, 1000));
        assert_eq!((taken[1].remaining, taken[1].reset_after_ms), (0, 59_500));
        let Some(Told::Taken(Err(short))) = ask.read(&reply(&[0, 0, 0, 59_500_000, 0])) else {
            panic!("taken")
        };
        assert_eq!((short.index, short.decision.retry_after_ms), (1, 500));
        for other in [reply(&[1, 0, 0]), reply(&[]), reply(&[1, -1, 0, 0, 0]), Reply::Integer(1)] {
            assert_eq!(ask.read(&other), None, "{other:?}");
        }
    }

    #[test]
    fn counts_have_a_key_for_each_window() {
        assert_eq!(OWNER.window(b"k", 1000, 12_345), b"z:p:w1000:12:k");
        assert_eq!(OWNER.window(b"k", 0, 12_345), b"z:p:w0:0:k");
        let get = Ask::Get { key: b"k".to_vec(), window_ms: 0, unix_ms: 0 };
        assert_eq!(get.read(&Reply::Bulk(None)), Some(Told::Count(0)));
        assert_eq!(get.read(&Reply::Bulk(Some(b"-5".to_vec()))), Some(Told::Count(-5)));
        assert_eq!(get.read(&Reply::Bulk(Some(b"x".to_vec()))), None);
    }

    /// Quotas as large as they can be written must not break the script's numbers.
    #[test]
    fn spans_have_an_end() {
        let quota = Quota { count: 1, period_ms: u32::MAX, burst: u32::MAX };
        assert_eq!(span(quota, u32::MAX), (SPAN_US_MAX, 0));
        let quota = Quota { count: u32::MAX, period_ms: 1, burst: u32::MAX };
        assert_eq!(span(quota, u32::MAX), (1000, 0));
    }

    /// Such a quota is one plugin's nonsense: the connection, which is everybody's, goes on.
    #[test]
    fn a_span_that_was_cut_short_may_be_refused() {
        let quota = Quota { count: 1, period_ms: u32::MAX, burst: 2200 };
        let absurd = Wanted { key: b"b".to_vec(), quota, cost: 1100 };
        let ask = Ask::Take(vec![wanted("a", 60, 1), absurd]);
        let taken = i64::try_from(SPAN_US_MAX).unwrap();
        let found = [0, 0, 0, taken, 0].map(Reply::Integer);

        let Some(Told::Taken(Err(short))) = ask.read(&Reply::Array(found.into())) else {
            panic!("not refused")
        };

        assert_eq!((short.index, short.decision.allowed), (1, false));
        // Where nothing was cut short it is no answer.
        let plain = Ask::Take(vec![wanted("a", 60, 1)]);
        assert_eq!(plain.read(&Reply::Array([0, 0, 0].map(Reply::Integer).into())), None);
    }
}
