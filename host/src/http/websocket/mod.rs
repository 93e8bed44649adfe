//! What of WebSocket is not tungstenite's: the fields of a handshake, the codes of closes, and where frames end
//! that nobody reads (`frames`).
//!
//! Not here: frames that are read (tungstenite), and what becomes of messages (`proxy::websocket`).

mod frames;

pub use frames::{Frame, Frames, close};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::fields::Fields;
use crate::error::RequestError;

/// Codes of closes (RFC 6455 §7.4.1).
pub mod code {
    /// One end goes away, or has gone.
    pub const AWAY: u16 = 1001;
    /// What came is no WebSocket.
    pub const PROTOCOL: u16 = 1002;
    /// Text that is not UTF-8.
    pub const INVALID: u16 = 1007;
    /// What came breaks a rule of whom it came to.
    pub const POLICY: u16 = 1008;
    /// A message is too large.
    pub const SIZE: u16 = 1009;
    /// The server cannot go on.
    pub const ERROR: u16 = 1011;
}

/// Whether it is WebSocket that an upgrade is to.
pub fn is_websocket(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(b"websocket")
}

/// Takes the offer of extensions from a request whose messages are to be seen. They would be compressed
/// (RFC 7692), and who is offered nothing must choose nothing (RFC 6455 §9.1).
pub fn withhold_extensions(request: &mut Fields) {
    request.remove_if(|name, _| name.eq_ignore_ascii_case(b"sec-websocket-extensions"));
}

/// Whether a server has agreed to the WebSocket that it was asked for, without extensions.
///
/// # Errors
///
/// It has not: its 101 was meant for another request, or comes from something that is no WebSocket server.
pub fn check_switch(request: &Fields, response: &Fields) -> Result<(), RequestError> {
    let key = request.get("sec-websocket-key").unwrap_or_default();
    let accept = response.get("sec-websocket-accept").unwrap_or_default();
    if derive_accept_key(key).as_bytes() != accept {
        return Err(RequestError::BadResponse("Sec-WebSocket-Accept"));
    }
    if response.get("sec-websocket-extensions").is_some() {
        return Err(RequestError::BadResponse("Sec-WebSocket-Extensions"));
    }
    Ok(())
}

/// What a peer is told whose bytes led to this error; `None`: it has gone, and hears nothing.
pub fn code_of(error: &Error) -> Option<u16> {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(code::PROTOCOL),
        Error::Utf8(_) => Some(code::INVALID),
        Error::Capacity(_) => Some(code::SIZE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        list.iter().for_each(|(name, value)| fields.push(name, value.as_bytes()));
        fields
    }

    /// The example of RFC 6455 §1.3.
    #[test]
    fn a_switch_proves_that_it_is_the_answer() {
        let request = fields(&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]);
        let accept = ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

        assert!(check_switch(&request, &fields(&[accept])).is_ok());
        assert!(check_switch(&request, &fields(&[])).is_err());
        assert!(check_switch(&fields(&[]), &fields(&[accept])).is_err());
        let extended = [accept, ("sec-websocket-extensions", "permessage-deflate")];
        assert!(check_switch(&request, &fields(&extended)).is_err());
    }

    #[test]
    fn an_offer_of_extensions_is_withheld_however_it_is_written() {
        let offer = ("SEC-WebSocket-Extensions", "permessage-deflate");
        let mut request = fields(&[offer, ("Sec-WebSocket-Protocol", "chat"), offer]);

        withhold_extensions(&mut request);

        assert_eq!(request.get("sec-websocket-extensions"), None);
        assert_eq!(request.get("sec-websocket-protocol"), Some(b"chat".as_slice()));
    }
}
