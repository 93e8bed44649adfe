//! stub
use crate::config::{Address, Admin};
use std::sync::Arc;
pub struct AdminServer(Address);
pub struct AdminSocket(Address);
impl AdminServer {
    pub fn bind(a: &Admin) -> anyhow::Result<AdminSocket> {
        Ok(AdminSocket(a.address.clone()))
    }
    pub fn start(s: AdminSocket, _r: Arc<super::running::Running>) -> anyhow::Result<Self> {
        Ok(Self(s.0))
    }
    pub fn address(&self) -> &Address {
        &self.0
    }
}
