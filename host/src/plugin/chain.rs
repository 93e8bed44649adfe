//! stub
use super::{Exchange, Flow, Middleware};
use crate::config::OnError;
use std::sync::Arc;

pub type NativeFactory =
    dyn Fn(&serde_json::Value) -> Result<Box<dyn Middleware>, String> + Send + Sync;
pub struct ChainPlan {
    pub links: Vec<LinkPlan>,
}
pub enum PlanSource {
    Wasm(Arc<Plugin>),
    Native(Arc<NativeFactory>),
}
pub struct LinkPlan {
    pub plugin: PlanSource,
    pub name: Arc<str>,
    pub config: Arc<str>,
    pub on_error: OnError,
}
pub struct Plugin;
impl Plugin {
    pub fn probe(&self, _c: &str) -> Result<(), String> {
        Ok(())
    }
}
pub struct PluginEngine;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct LoadError;
impl PluginEngine {
    pub fn new() -> Result<Arc<Self>, std::io::Error> {
        Ok(Arc::new(Self))
    }
    pub fn load(
        &self,
        _n: &str,
        _b: &[u8],
        _l: &crate::config::PluginLimits,
    ) -> Result<Arc<Plugin>, LoadError> {
        Err(LoadError)
    }
}
#[derive(Default)]
pub struct Instances;
impl Instances {
    pub fn new() -> Self {
        Self
    }
    pub fn chain(&mut self, _p: &ChainPlan) -> Result<Chain, String> {
        Ok(Chain)
    }
}
pub struct Chain;
pub struct Passed {
    pub outcome: Result<Flow, ()>,
    pub entered: usize,
}
impl Chain {
    pub fn on_request(&self, exchange: Box<Exchange>) -> (Box<Exchange>, Passed) {
        (exchange, Passed { outcome: Ok(Flow::Next), entered: 0 })
    }
    pub fn on_response(
        &self,
        exchange: Box<Exchange>,
        _e: usize,
    ) -> (Box<Exchange>, Result<Flow, ()>) {
        (exchange, Ok(Flow::Next))
    }
}
