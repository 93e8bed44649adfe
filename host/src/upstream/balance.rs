//! Which server of an upstream gets the next request.
//!
//! Each worker chooses for itself: no state is shared. Workers start at different servers, so that
//! they do not all turn to the same one at the same moment.

use std::cell::{Cell, RefCell};

use crate::config::Balance;

/// A worker's place in the order of an upstream's servers.
#[derive(Debug)]
pub enum Balancer {
    /// Each in turn.
    RoundRobin {
        /// The next one.
        next: Cell<usize>,
        /// How many there are.
        count: usize,
    },
    /// Smooth weighted round-robin.
    Weighted {
        /// Share of each server.
        weights: Vec<i64>,
        /// What each server has saved up.
        credit: RefCell<Vec<i64>>,
    },
}

impl Balancer {
    /// A balancer over servers of these weights.
    pub fn new(balance: Balance, weights: &[u32], worker: usize) -> Self {
        match balance {
            Balance::RoundRobin => {
                let count = weights.len();
                Self::RoundRobin { next: Cell::new(worker % count.max(1)), count }
            }
            Balance::Weighted => {
                let balancer = Self::Weighted {
                    weights: weights.iter().map(|weight| i64::from(*weight)).collect(),
                    credit: RefCell::new(vec![0; weights.len()]),
                };
                for _ in 0..worker % weights.len().max(1) {
                    balancer.pick();
                }
                balancer
            }
        }
    }

    /// The server for the next request.
    pub fn pick(&self) -> usize {
        match self {
            Self::RoundRobin { next, count } => {
                let picked = next.get();
                next.set(if picked + 1 < *count { picked + 1 } else { 0 });
                picked
            }
            Self::Weighted { weights, credit } => pick_weighted(weights, &mut credit.borrow_mut()),
        }
    }
}

/// Smooth weighted round-robin: everyone earns its weight, the richest serves and pays the sum. Over
/// a full turn each is picked as often as its weight says, and the picks are spread evenly.
fn pick_weighted(weights: &[i64], credit: &mut [i64]) -> usize {
    for (credit, weight) in credit.iter_mut().zip(weights) {
        *credit += weight;
    }
    let mut picked = 0;
    for (server, value) in credit.iter().enumerate() {
        if *value > credit[picked] {
            picked = server;
        }
    }
    if let Some(value) = credit.get_mut(picked) {
        *value -= weights.iter().sum::<i64>();
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(balancer: &Balancer, count: usize) -> Vec<usize> {
        (0..count).map(|_| balancer.pick()).collect()
    }

    #[test]
    fn round_robin_takes_each_in_turn_and_workers_start_apart() {
        let first = Balancer::new(Balance::RoundRobin, &[1, 1, 1], 0);
        let second = Balancer::new(Balance::RoundRobin, &[1, 1, 1], 1);

        assert_eq!(picks(&first, 4), [0, 1, 2, 0]);
        assert_eq!(picks(&second, 4), [1, 2, 0, 1]);
    }

    #[test]
    fn weights_are_met_exactly_over_a_turn_and_spread_evenly() {
        let balancer = Balancer::new(Balance::Weighted, &[5, 1, 1], 0);

        assert_eq!(picks(&balancer, 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(picks(&balancer, 7), [0, 0, 1, 0, 2, 0, 0]);
    }
}
