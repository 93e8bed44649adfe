//! What a worker counts about WebSockets, by route.
//!
//! Not here: how it is written (`control::metrics`).

/// Who has ended a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// The client, also by leaving.
    Client,
    /// The server, likewise.
    Server,
    /// The gateway: a rule was broken, or time was up.
    Gateway,
    /// A plugin.
    Plugin,
}

impl ClosedBy {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Client, Self::Server, Self::Gateway, Self::Plugin];

    /// As metrics and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Gateway => "gateway",
            Self::Plugin => "plugin",
        }
    }
}

/// How a WebSocket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseKind {
    /// With this code.
    Code(u16),
    /// With a close that had none.
    NoCode,
    /// Without a close.
    Lost,
}

/// Codes that are counted apart, and kinds of others; peers may choose among thousands.
pub const CLOSE_KINDS: [&str; 17] = [
    "1000", "1001", "1002", "1003", "1007", "1008", "1009", "1010", "1011", "1012", "1013", "1014",
    "3xxx", "4xxx", "none", "lost", "other",
];

impl CloseKind {
    /// Its place in [`CLOSE_KINDS`].
    fn index(self) -> usize {
        match self {
            Self::Code(code @ 1000..=1003) => usize::from(code - 1000),
            Self::Code(code @ 1007..=1014) => usize::from(code - 1003),
            Self::Code(3000..=3999) => 12,
            Self::Code(4000..=4999) => 13,
            Self::NoCode => 14,
            Self::Lost => 15,
            Self::Code(_) => 16,
        }
    }
}

/// WebSockets of one route.
#[derive(Clone, Debug, Default)]
pub struct WebSocketCounts {
    /// Open now, tunnels included.
    pub open: u64,
    /// Since the start, likewise.
    pub opened: u64,
    /// Not opened, because the route has no room for more.
    pub refused: u64,
    /// Messages seen, from clients and from servers.
    pub messages: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
    /// Ends of those whose messages were seen, in the order of [`ClosedBy::ALL`] and [`CLOSE_KINDS`].
    pub closes: [[u64; CLOSE_KINDS.len()]; ClosedBy::ALL.len()],
}

impl WebSocketCounts {
    /// Counts an end.
    pub fn closed(&mut self, by: ClosedBy, kind: CloseKind) {
        self.closes[by as usize][kind.index()] += 1;
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.open += other.open;
        self.opened += other.opened;
        self.refused += other.refused;
        for from in 0..2 {
            self.messages[from] += other.messages[from];
            self.bytes[from] += other.bytes[from];
        }
        let both = self.closes.iter_mut().flatten().zip(other.closes.iter().flatten());
        both.for_each(|(count, more)| *count += more);
    }
}

/// What the access log says of a WebSocket whose messages were seen.
#[derive(Clone, Copy, Debug)]
pub struct Conversation {
    /// Who has ended it.
    pub by: ClosedBy,
    /// How.
    pub kind: CloseKind,
    /// Messages from the client and from the server.
    pub messages: [u64; 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_counted_under_its_name() {
        for code in 0..=u16::MAX {
            let name = CLOSE_KINDS[CloseKind::Code(code).index()];
            match name.parse::<u16>() {
                Ok(named) => assert_eq!(named, code),
                Err(_) if (3000..5000).contains(&code) => {
                    assert_eq!(name, format!("{}xxx", code / 1000));
                }
                Err(_) => assert_eq!(name, "other", "{code}"),
            }
        }
        assert_eq!(CLOSE_KINDS[CloseKind::NoCode.index()], "none");
        assert_eq!(CLOSE_KINDS[CloseKind::Lost.index()], "lost");
    }
}
