//! Holds the guests in `examples/`, one component each; nothing to see here.
