//! Metrics of plugins' own.
//!
//! ```text
//!   instance ─► Registered ─► Cell ◄─ written by its worker alone, with plain stores
//!                              ▲
//!   plugin ───► Metrics ─► Family: what is gone + all cells, summed when somebody asks
//! ```
//!
//! An instance that ends leaves its counts behind, so that they never go back. Of a family that no
//! instance has any more, the counts are kept until its place is needed.
//!
//! Names are the gateway's: no two families of `/metrics` may share one, whatever the plugins are
//! called ([`Names`]).
//!
//! Not here: how metrics are written (`control::metrics`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;

/// Metrics that one instance may have.
pub const INSTANCE_METRICS_MAX: usize = 64;

/// Metrics that a plugin may have with all its generations and configurations.
const FAMILIES_MAX: usize = 256;

/// Bytes of a name, and of a help text.
const NAME_BYTES_MAX: usize = 64;
const HELP_BYTES_MAX: usize = 256;

/// Buckets of a histogram, without that for what is larger than all bounds.
const BOUNDS_MAX: usize = 32;

/// What stands in front of the names of plugins' metrics.
const PREFIX: &str = "zproxy_plugin_";

/// Families of the gateway's own that begin in the same way.
pub const OWN: [&str; 8] = [
    "zproxy_plugin_calls_total",
    "zproxy_plugin_duration_seconds",
    "zproxy_plugin_generation",
    "zproxy_plugin_memory_bytes",
    "zproxy_plugin_state_bytes",
    "zproxy_plugin_state_entries",
    "zproxy_plugin_swaps_total",
    "zproxy_plugin_traps_total",
];

/// Who has which name in `/metrics`.
#[derive(Default)]
pub struct Names(Mutex<HashMap<String, Arc<str>>>);

/// Names that a family holds.
struct Claim {
    names: Arc<Names>,
    claimed: Vec<String>,
}

impl Names {
    fn claim(self: &Arc<Self>, plugin: &Arc<str>, names: Vec<String>) -> Result<Claim, String> {
        let mut taken = lock(&self.0);
        for name in &names {
            if OWN.iter().any(|own| own.strip_suffix("_total").unwrap_or(own) == name) {
                return Err(format!("`{name}` is a metric of the gateway's own"));
            }
            if let Some(other) = taken.get(name) {
                return Err(format!("`{name}` is taken by the plugin `{other}`"));
            }
        }
        taken.extend(names.iter().map(|name| (name.clone(), Arc::clone(plugin))));
        Ok(Claim { names: Arc::clone(self), claimed: names })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut taken = lock(&self.names.0);
        for name in &self.claimed {
            taken.remove(name);
        }
    }
}

/// What a metric counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// A distribution with these upper ends of its buckets.
    Histogram(Arc<[f64]>),
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }

    /// Every name that a family of this kind takes, of itself or of its samples.
    fn names(&self, name: &str) -> Vec<String> {
        let suffixes: &[&str] = match self {
            Self::Counter => &["", "_total"],
            Self::Gauge => &[""],
            Self::Histogram(_) => &["", "_bucket", "_sum", "_count"],
        };
        suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect()
    }
}

/// One metric of one instance. Its worker alone writes it, so that what was read is still there when
/// it is written back.
#[derive(Debug)]
struct Cell {
    /// A count, or the bits of a number: that of a gauge, or the sum of a histogram.
    value: AtomicU64,
    /// The last is for what is larger than all bounds; none but for histograms.
    buckets: Box<[AtomicU64]>,
}

impl Cell {
    fn new(kind: &Kind) -> Self {
        let buckets = match kind {
            Kind::Histogram(bounds) => bounds.len() + 1,
            Kind::Counter | Kind::Gauge => 0,
        };
        Self {
            value: AtomicU64::new(0),
            buckets: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn number(&self) -> f64 {
        f64::from_bits(self.value.load(Ordering::Relaxed))
    }
}

/// Counts of a family, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Of a counter.
    pub count: u64,
    /// Of a gauge; the sum of a histogram.
    pub number: f64,
    /// Of a histogram; not cumulative, the last for what is larger than all bounds.
    pub buckets: Vec<u64>,
}

impl Totals {
    fn add(&mut self, kind: &Kind, cell: &Cell) {
        match kind {
            Kind::Counter => {
                self.count = self.count.wrapping_add(cell.value.load(Ordering::Relaxed));
            }
            Kind::Gauge | Kind::Histogram(_) => self.number += cell.number(),
        }
        self.buckets.resize(cell.buckets.len(), 0);
        for (total, count) in self.buckets.iter_mut().zip(&cell.buckets) {
            *total = total.wrapping_add(count.load(Ordering::Relaxed));
        }
    }
}

/// A metric of a plugin, over all its instances.
struct Family {
    name: Box<str>,
    help: Box<str>,
    kind: Kind,
    gone: Totals,
    live: Vec<Arc<Cell>>,
    /// Holds its names in `/metrics`.
    _claim: Claim,
}

/// A metric of a plugin, for `/metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// In full, without the `_total` of a counter.
    pub name: String,
    /// What it says about itself.
    pub help: String,
    /// What it counts.
    pub kind: Kind,
    /// What it has counted.
    pub totals: Totals,
}

/// The metrics of one plugin.
pub struct Metrics {
    plugin: Arc<str>,
    names: Arc<Names>,
    families: Mutex<Vec<Family>>,
}

impl Metrics {
    pub(super) fn new(plugin: &Arc<str>, names: Arc<Names>) -> Self {
        Self { plugin: Arc::clone(plugin), names, families: Mutex::default() }
    }

    /// All of them, as they are now.
    pub fn read(&self) -> Vec<Metric> {
        let families = lock(&self.families);
        let read = families.iter().map(|family| {
            let mut totals = family.gone.clone();
            family.live.iter().for_each(|cell| totals.add(&family.kind, cell));
            let (name, help) = (self.full_name(&family.name), family.help.to_string());
            Metric { name, help, kind: family.kind.clone(), totals }
        });
        read.collect()
    }

    fn full_name(&self, name: &str) -> String {
        format!("{PREFIX}{}_{name}", self.plugin.replace(['-', '.'], "_"))
    }

    /// A cell of the metric `name`, which is made if there is none.
    fn register(&self, name: &str, help: &str, kind: Kind) -> Result<Arc<Cell>, String> {
        let mut families = lock(&self.families);
        let known = families.iter().position(|family| *family.name == *name);
        if let Some(place) = known {
            let family = &mut families[place];
            if family.kind == kind {
                family.help = clean(help);
                let cell = Arc::new(Cell::new(&kind));
                family.live.push(Arc::clone(&cell));
                return Ok(cell);
            }
            if !family.live.is_empty() {
                let other = family.kind.name();
                return Err(format!(
                    "`{name}` is a {other}, with bounds of its own if any, already"
                ));
            }
            // What an earlier generation called so.
            families.remove(place);
        }
        if families.len() >= FAMILIES_MAX {
            let Some(place) = families.iter().position(|family| family.live.is_empty()) else {
                return Err(format!("a plugin has at most {FAMILIES_MAX} metrics"));
            };
            families.remove(place);
        }
        let claim = self.names.claim(&self.plugin, kind.names(&self.full_name(name)))?;
        let cell = Arc::new(Cell::new(&kind));
        families.push(Family {
            name: name.into(),
            help: clean(help),
            gone: Totals::default(),
            live: vec![Arc::clone(&cell)],
            kind,
            _claim: claim,
        });
        Ok(cell)
    }

    /// Keeps what an instance has counted. What it had set is gone with it.
    fn retire(&self, cells: &[Arc<Cell>]) {
        for family in lock(&self.families).iter_mut() {
            let Family { live, gone, kind, .. } = family;
            live.retain(|cell| {
                let ended = cells.iter().any(|one| Arc::ptr_eq(one, cell));
                if ended && *kind != Kind::Gauge {
                    gone.add(kind, cell);
                }
                !ended
            });
        }
    }
}

/// A help text on one line, not too long.
fn clean(help: &str) -> Box<str> {
    let cut = &help[..help.floor_char_boundary(HELP_BYTES_MAX)];
    cut.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// The metrics of one instance; an id is an index.
pub struct Registered {
    metrics: Arc<Metrics>,
    list: Vec<(Box<str>, Kind)>,
    cells: Vec<Arc<Cell>>,
}

/// An id that stands for no metric of the kind that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchMetric;

impl Registered {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, list: Vec::new(), cells: Vec::new() }
    }

    /// The id of a counter.
    pub fn counter(&mut self, name: &str, help: &str) -> Result<u32, String> {
        self.register(name, help, Kind::Counter)
    }

    /// The id of a gauge.
    pub fn gauge(&mut self, name: &str, help: &str) -> Result<u32, String> {
        self.register(name, help, Kind::Gauge)
    }

    /// The id of a histogram.
    pub fn histogram(&mut self, name: &str, help: &str, bounds: &[f64]) -> Result<u32, String> {
        let rising = bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if bounds.is_empty() || bounds.len() > BOUNDS_MAX || !rising {
            return Err(format!("the bounds of `{name}` must be 1 to {BOUNDS_MAX} rising numbers"));
        }
        if !bounds.iter().all(|bound| bound.is_finite()) {
            return Err(format!(
                "the bounds of `{name}` must be finite: what is above is counted too"
            ));
        }
        self.register(name, help, Kind::Histogram(bounds.into()))
    }

    /// Adds to a counter.
    pub fn add(&self, id: u32, count: u64) -> Result<(), NoSuchMetric> {
        let (Kind::Counter, cell) = self.find(id)? else { return Err(NoSuchMetric) };
        let before = cell.value.load(Ordering::Relaxed);
        cell.value.store(before.wrapping_add(count), Ordering::Relaxed);
        Ok(())
    }

    /// Sets a gauge.
    pub fn set(&self, id: u32, value: f64) -> Result<(), NoSuchMetric> {
        let (Kind::Gauge, cell) = self.find(id)? else { return Err(NoSuchMetric) };
        if !value.is_nan() {
            cell.value.store(value.to_bits(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Counts a value into a histogram.
    pub fn observe(&self, id: u32, value: f64) -> Result<(), NoSuchMetric> {
        let (Kind::Histogram(bounds), cell) = self.find(id)? else { return Err(NoSuchMetric) };
        if value.is_nan() {
            return Ok(());
        }
        let bucket = bounds.partition_point(|bound| *bound < value);
        if let Some(count) = cell.buckets.get(bucket) {
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            cell.value.store((cell.number() + value).to_bits(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn find(&self, id: u32) -> Result<(&Kind, &Cell), NoSuchMetric> {
        let index = usize::try_from(id).map_err(|_| NoSuchMetric)?;
        let (_, kind) = self.list.get(index).ok_or(NoSuchMetric)?;
        Ok((kind, self.cells.get(index).ok_or(NoSuchMetric)?))
    }

    fn register(&mut self, name: &str, help: &str, kind: Kind) -> Result<u32, String> {
        if !is_name(name) {
            let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
            return Err(format!(
                "`{shown}` cannot name a metric; use `[a-z][a-z0-9_]*`, at most {NAME_BYTES_MAX}"
            ));
        }
        if kind == Kind::Counter && name.ends_with("_total") {
            return Err(format!("leave `_total` off `{name}`: the gateway adds it"));
        }
        let known = self.list.iter().position(|(other, of)| **other == *name && *of == kind);
        let index = match known {
            Some(index) => index,
            None if self.list.len() >= INSTANCE_METRICS_MAX => {
                return Err(format!("an instance has at most {INSTANCE_METRICS_MAX} metrics"));
            }
            None => {
                self.cells.push(self.metrics.register(name, help, kind.clone())?);
                self.list.push((name.into(), kind));
                self.list.len() - 1
            }
        };
        u32::try_from(index).map_err(|error| error.to_string())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.metrics.retire(&self.cells);
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(plain)
}
