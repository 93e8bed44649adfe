//! `zproxy:gateway/counters`, when the counters are in Redis: its functions wait.
//!
//! Linked by hand in the place of those that do not wait (`counters`), for plugins that are called on fibers. A
//! hook that cannot wait (chunks of bodies, `on-log`, `init`) is answered from this process' memory, and what it
//! does is said to Redis without waiting for it. So is everything while Redis is away, if that is what the
//! operator wants.

use wasmtime::StoreContextMut;
use wasmtime::component::ComponentType;
use wasmtime::component::Lift;
use wasmtime::component::Linker;
use wasmtime::component::Lower;

use super::State;
use crate::config::StateError;
use crate::plugin::engine::ticks;
use crate::state::counters;
use crate::state::counters::Wanted as Take;
use crate::state::redis::{Ask, Told};

#[derive(ComponentType, Lift, Clone, Copy)]
#[component(record)]
struct Quota {
    count: u32,
    #[component(name = "period-ms")]
    period_ms: u32,
    burst: u32,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Wanted {
    key: Vec<u8>,
    quota: Quota,
    cost: u32,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Decision {
    allowed: bool,
    remaining: u32,
    #[component(name = "retry-after-ms")]
    retry_after_ms: u32,
    #[component(name = "reset-after-ms")]
    reset_after_ms: u32,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Shortage {
    index: u32,
    decision: Decision,
}

impl From<Quota> for counters::Quota {
    fn from(Quota { count, period_ms, burst }: Quota) -> Self {
        Self { count, period_ms, burst }
    }
}

impl From<counters::Decision> for Decision {
    fn from(decision: counters::Decision) -> Self {
        let counters::Decision { allowed, remaining, retry_after_ms, reset_after_ms } = decision;
        Self { allowed, remaining, retry_after_ms, reset_after_ms }
    }
}

impl From<counters::Shortage> for Shortage {
    fn from(shortage: counters::Shortage) -> Self {
        let index = u32::try_from(shortage.index).unwrap_or(u32::MAX);
        Self { index, decision: shortage.decision.into() }
    }
}

/// What Redis says, or what is done without it.
async fn answer(store: &mut StoreContextMut<'_, State>, ask: Ask) -> Told {
    let state = store.data_mut();
    let Some(handle) = state.remote.clone() else { return state.locally(&ask) };
    if !state.waits.may_wait() {
        handle.tell(ask.clone());
        return state.locally(&ask);
    }
    let told = match handle.ask(ask.clone()) {
        None => None,
        Some(told) => {
            state.waits.pause();
            let told = told.await.ok();
            let state = store.data_mut();
            state.overran_at = None;
            let left = state.waits.resume();
            store.set_epoch_deadline(ticks(left));
            told
        }
    };
    told.unwrap_or_else(|| store.data_mut().without(&ask))
}

impl State {
    /// What is done while Redis is away.
    fn without(&mut self, ask: &Ask) -> Told {
        match self.allow.redis {
            None | Some(StateError::Local) => self.locally(ask),
            Some(StateError::Open) => open(ask),
            Some(StateError::Closed) => {
                self.missing = Some("redis, in which the counters are, is away");
                self.locally(ask)
            }
        }
    }

    /// The same in this process' memory.
    fn locally(&self, ask: &Ask) -> Told {
        let (counters, now) = (self.kept.counters(), self.now());
        match ask {
            Ask::Take(wanted) => Told::Taken(counters.take_all(wanted, now)),
            Ask::GiveBack(one) => {
                counters.give_back(&one.key, one.quota, one.cost, now);
                Told::Done
            }
            Ask::Add { key, delta, window_ms, .. } => {
                Told::Count(counters.add(key, *delta, *window_ms, now))
            }
            Ask::Get { key, window_ms, .. } => Told::Count(counters.get(key, *window_ms, now)),
        }
    }
}

/// Everything is allowed, and nothing has been counted.
fn open(ask: &Ask) -> Told {
    let whole = |one: &Take| counters::Decision {
        allowed: true,
        remaining: one.quota.burst,
        retry_after_ms: 0,
        reset_after_ms: 0,
    };
    match ask {
        Ask::Take(wanted) => Told::Taken(Ok(wanted.iter().map(whole).collect())),
        Ask::GiveBack(_) => Told::Done,
        Ask::Add { delta, .. } => Told::Count(*delta),
        Ask::Get { .. } => Told::Count(0),
    }
}

const REFUSED: counters::Decision =
    counters::Decision { allowed: false, remaining: 0, retry_after_ms: 0, reset_after_ms: 0 };

async fn take_all(
    store: &mut StoreContextMut<'_, State>,
    wanted: Vec<Take>,
) -> Result<Vec<counters::Decision>, counters::Shortage> {
    match answer(store, Ask::Take(wanted)).await {
        Told::Taken(taken) => taken,
        Told::Done | Told::Count(_) => Err(counters::Shortage { index: 0, decision: REFUSED }),
    }
}

async fn count(store: &mut StoreContextMut<'_, State>, ask: Ask) -> i64 {
    match answer(store, ask).await {
        Told::Count(count) => count,
        Told::Done | Told::Taken(_) => 0,
    }
}

/// Puts them in the place of those that do not wait.
pub(in crate::plugin) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut interface = linker.instance("zproxy:gateway/counters@0.1.0")?;
    interface.func_wrap_async(
        "take",
        |mut store: StoreContextMut<'_, State>, (key, quota, cost): (Vec<u8>, Quota, u32)| {
            Box::new(async move {
                if !store.data_mut().takes_key("counters.take", &key) {
                    return Ok((Decision::from(REFUSED),));
                }
                let wanted = vec![Take { key, quota: quota.into(), cost }];
                let decision = match take_all(&mut store, wanted).await {
                    Ok(decisions) => decisions.first().copied().unwrap_or(REFUSED),
                    Err(shortage) => shortage.decision,
                };
                Ok((Decision::from(decision),))
            })
        },
    )?;
    interface.func_wrap_async(
        "take-all",
        |mut store: StoreContextMut<'_, State>, (wanted,): (Vec<Wanted>,)| {
            Box::new(async move {
                let wanted: Vec<Take> = wanted
                    .into_iter()
                    .map(|Wanted { key, quota, cost }| Take { key, quota: quota.into(), cost })
                    .collect();
                let state = store.data_mut();
                if let Err(shortage) = state.takes_all(&wanted) {
                    return Ok((Err(Shortage::from(shortage)),));
                }
                let taken = take_all(&mut store, wanted).await;
                let taken: Result<Vec<Decision>, Shortage> = taken
                    .map(|decisions| decisions.into_iter().map(Decision::from).collect())
                    .map_err(Shortage::from);
                Ok((taken,))
            })
        },
    )?;
    interface.func_wrap_async(
        "give-back",
        |mut store: StoreContextMut<'_, State>, (key, quota, cost): (Vec<u8>, Quota, u32)| {
            Box::new(async move {
                if store.data_mut().takes_key("counters.give-back", &key) {
                    answer(&mut store, Ask::GiveBack(Take { key, quota: quota.into(), cost }))
                        .await;
                }
                Ok(())
            })
        },
    )?;
    interface.func_wrap_async(
        "add",
        |mut store: StoreContextMut<'_, State>, (key, delta, window_ms): (Vec<u8>, i64, u32)| {
            Box::new(async move {
                let state = store.data_mut();
                if !state.takes_key("counters.add", &key) {
                    return Ok((0,));
                }
                let unix_ms = state.now().unix_ms;
                let ask = Ask::Add { key, delta, window_ms, unix_ms };
                Ok((count(&mut store, ask).await,))
            })
        },
    )?;
    interface.func_wrap_async(
        "get",
        |mut store: StoreContextMut<'_, State>, (key, window_ms): (Vec<u8>, u32)| {
            Box::new(async move {
                let state = store.data_mut();
                if !state.takes_key("counters.get", &key) {
                    return Ok((0_i64,));
                }
                let unix_ms = state.now().unix_ms;
                Ok((count(&mut store, Ask::Get { key, window_ms, unix_ms }).await,))
            })
        },
    )
}
