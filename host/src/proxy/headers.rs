//! stub
use crate::http::{Name, RequestHead, ResponseHead};
use std::net::IpAddr;
pub struct ClientFacts {
    pub peer: Option<IpAddr>,
    pub trusted: bool,
    pub scheme: &'static str,
    pub wall_ms: u64,
}
pub fn request_to_upstream(head: &mut RequestHead, _f: &ClientFacts, _r: &mut fastrand::Rng) {
    head.fields.remove_known(Name::Connection);
    head.fields.remove_known(Name::Upgrade);
    head.fields.push("Via", b"1.1 zproxy");
}
pub fn response_to_client(head: &mut ResponseHead, _d: &[u8; 29]) {
    head.fields.remove_known(Name::Connection);
    head.fields.push("Via", b"1.1 zproxy");
}
pub fn interim_to_client(_h: &mut ResponseHead) {}
pub fn client_ip(peer: IpAddr, _t: &[ipnet::IpNet], _h: &RequestHead) -> IpAddr {
    peer
}
