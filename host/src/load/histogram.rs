//! Latencies in buckets that grow with the value: cheap to add to, exact to under one percent.
//!
//! Values below 256 have a bucket each; above, every doubling is cut into 128 equal buckets, so
//! a bucket is never wider than 1/128 of its values. Values are nanoseconds here.
//!
//! Not here: correcting for coordinated omission; `engine` does that by measuring from the moment
//! at which a request was due (`pace`).

/// Buckets to each doubling, as a power of two.
const PRECISION_BITS: u32 = 7;
/// Buckets to each doubling.
const PER_DOUBLING: usize = 1 << PRECISION_BITS;
/// Doublings covered: up to 2^40 ns, about 18 minutes, longer than any run may take.
const DOUBLINGS: usize = 40 - PRECISION_BITS as usize;

/// Counts of values by size.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl Histogram {
    /// An empty histogram; all its memory is taken here.
    pub(super) fn new() -> Self {
        let counts = vec![0; (DOUBLINGS + 1) * PER_DOUBLING];
        Self { counts, total: 0, sum: 0, min: u64::MAX, max: 0 }
    }

    /// Adds one value.
    pub(super) fn record(&mut self, value: u64) {
        let last = self.counts.len() - 1;
        self.counts[bucket_of(value).min(last)] += 1;
        self.total += 1;
        self.sum = self.sum.saturating_add(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds every value of another.
    pub(super) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// How many values there are.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The smallest value, exactly; 0 when empty.
    pub(super) fn min(&self) -> u64 {
        if self.total == 0 { 0 } else { self.min }
    }

    /// The mean, exactly; 0 when empty.
    pub(super) fn mean(&self) -> u64 {
        self.sum / self.total.max(1)
    }

    /// The largest value, exactly.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// How many values do not exceed `limit`, to the precision of a bucket.
    pub(super) fn up_to(&self, limit: u64) -> u64 {
        let last = bucket_of(limit).min(self.counts.len() - 1);
        self.counts[..=last].iter().sum()
    }

    /// The value that `share` parts in 100,000 of all values do not exceed; 0 when empty.
    pub(super) fn quantile(&self, share: u64) -> u64 {
        let rank = (self.total * share).div_ceil(100_000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return highest_in(bucket).min(self.max);
            }
        }
        self.max
    }
}

/// The bucket of a value.
fn bucket_of(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(PRECISION_BITS + 1);
    let within = usize::try_from(value >> shift).unwrap_or(usize::MAX);
    // Each shift adds one doubling; `within` is in 128..256 as soon as there is a shift.
    shift as usize * PER_DOUBLING + within
}

/// The largest value that falls into a bucket.
fn highest_in(bucket: usize) -> u64 {
    let shift = (bucket / PER_DOUBLING).saturating_sub(1);
    let within = (bucket - shift * PER_DOUBLING) as u64;
    ((within + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_not_wider_than_a_128th() {
        for value in (0..4_096).chain([1 << 20, (1 << 20) + 12_345, (1 << 39) + 7]) {
            let bucket = bucket_of(value);

            assert!(highest_in(bucket) >= value, "{value}");
            assert!(highest_in(bucket) - value <= value / 128, "{value}");
            assert!(bucket == 0 || highest_in(bucket - 1) < value, "{value}");
        }
    }

    #[test]
    fn quantiles_of_one_to_a_thousand_are_where_they_belong() {
        let mut histogram = Histogram::new();
        for value in 1..=1_000 {
            histogram.record(value);
        }

        assert!((500..=504).contains(&histogram.quantile(50_000)));
        assert!((990..=1_000).contains(&histogram.quantile(99_000)));
        assert_eq!(histogram.quantile(100_000), 1_000);
        assert_eq!(histogram.max(), 1_000);
    }

    #[test]
    fn two_become_one() {
        let (mut left, mut right) = (Histogram::new(), Histogram::new());
        [5, 7].into_iter().for_each(|value| left.record(value));
        [3, 1_000_000].into_iter().for_each(|value| right.record(value));

        left.add(&right);

        assert_eq!((left.total(), left.min(), left.max()), (4, 3, 1_000_000));
        assert_eq!(left.mean(), 1_000_015 / 4);
        assert_eq!(
            (left.up_to(4), left.up_to(7), left.up_to(999), left.up_to(1_000_000)),
            (1, 3, 3, 4)
        );
        assert_eq!((Histogram::new().min(), Histogram::new().mean()), (0, 0));
    }

    #[test]
    fn what_is_beyond_the_last_bucket_still_counts() {
        let mut histogram = Histogram::new();

        histogram.record(u64::MAX);

        assert_eq!(histogram.max(), u64::MAX);
        assert!(histogram.quantile(50_000) > 1 << 39);
        assert_eq!(Histogram::new().quantile(50_000), 0);
    }
}
