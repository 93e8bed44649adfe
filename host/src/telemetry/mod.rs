//! stub
use crate::http::{Method, RequestHead};
use std::net::IpAddr;
use std::time::Duration;
pub mod log {
    pub fn start(_l: Option<&str>) {}
    pub fn flush() {}
}
pub struct Finished {
    pub listener: usize,
    pub route: Option<usize>,
    pub method: Method,
    pub status: u16,
    pub upstream: Option<(usize, usize)>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub upstream_wait: Option<Duration>,
    pub retries: u32,
}
pub struct AccessRecord<'a> {
    pub finished: &'a Finished,
    pub request: &'a RequestHead,
    pub client_ip: Option<IpAddr>,
    pub route: Option<&'a str>,
    pub cause: Option<&'static str>,
    pub wall_ms: u64,
    pub attempts: u32,
}
pub struct AccessLogger;
impl AccessLogger {
    pub fn write(&self, _r: &AccessRecord<'_>) {}
    pub fn flush(&self) {}
}
#[derive(Default)]
pub struct WorkerTelemetry;
impl WorkerTelemetry {
    pub fn record(&self, _f: &Finished) {}
    pub fn connection_idle(&self, _l: usize) {}
    pub fn connection_active(&self, _l: usize) {}
    pub fn connection_accepted(&self, _l: usize) {}
    pub fn connection_closed(&self, _l: usize) {}
    pub fn accept_error(&self, _e: &std::io::Error) {}
    pub fn sample_utilisation(&self) {}
}
pub struct WorkerReport;
pub fn http_date(_s: u64) -> [u8; 29] {
    *b"Sun, 06 Nov 1994 08:49:37 GMT"
}
