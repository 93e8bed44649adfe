//! The functions that a failure came through, for one line of the log.
//!
//! Not here: what else is said of a failure (`live`).

use wasmtime::WasmBacktrace;

use super::host::clean;

/// Functions that are named: enough to tell who called what, on one line.
const FRAMES_MAX: usize = 12;

/// Bytes of a function's name that are shown.
const FRAME_BYTES_MAX: usize = 200;

/// What Rust's library calls the function below which a panic is its own affair: what called that is the
/// program's.
const RUST_PANIC: &str = "__rust_end_short_backtrace";

/// The functions of a back-trace, the innermost first, with their places in the source when the component
/// carries those (DWARF).
pub(super) fn way(backtrace: &WasmBacktrace) -> String {
    let mut frames = Vec::new();
    for frame in backtrace.frames() {
        // Functions that the compiler has put into this one come first.
        for symbol in frame.symbols() {
            let name = symbol.name().or(frame.func_name());
            let place = symbol.file().map(|file| match symbol.line() {
                Some(line) => format!(" ({file}:{line})"),
                None => format!(" ({file})"),
            });
            frames.extend(name.map(|name| (name, place.unwrap_or_default())));
        }
        if frame.symbols().is_empty() {
            frames.extend(frame.func_name().map(|name| (name, String::new())));
        }
    }
    told(&frames)
}

fn told(frames: &[(&str, String)]) -> String {
    let own = frames.iter().rposition(|(name, _)| name.contains(RUST_PANIC)).map_or(0, |at| at + 1);
    // Nothing else: a panic of the library itself.
    let frames = if own < frames.len() { &frames[own..] } else { frames };
    let mut text = String::new();
    for (index, (name, place)) in frames.iter().take(FRAMES_MAX).enumerate() {
        let between = if index == 0 { ", in" } else { " <" };
        // Names of other languages stay as they are.
        let name = format!("{:#}", rustc_demangle::demangle(name));
        let name = clean(name.as_bytes(), FRAME_BYTES_MAX);
        text.push_str(&format!("{between} `{name}`{place}"));
    }
    if frames.len() > FRAMES_MAX {
        text.push_str(" < …");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rust_are_readable_and_others_as_they_are() {
        let frames = [
            "_RNvCs1234_7mycrate3foo",
            "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE",
            "c_name",
            "a\nb",
        ];
        let frames = frames.map(|name| (name, String::new()));

        assert_eq!(
            told(&frames),
            ", in `mycrate::foo` < `core::fmt::Write::write_fmt` < `c_name` < `a\\nb`"
        );
    }

    #[test]
    fn how_rust_panics_is_left_out() {
        let inside = [
            "abort",
            "_RNvCs1_3std10rust_panic",
            "_RINvNtCs1_3std3sys26___rust_end_short_backtraceuEB2_",
        ];
        let outside = ["rust_begin_unwind", "mine"];
        let named = |names: &[&'static str]| {
            names.iter().map(|name| (*name, String::new())).collect::<Vec<_>>()
        };

        assert_eq!(
            told(&named(&[&inside[..], &outside].concat())),
            ", in `rust_begin_unwind` < `mine`"
        );
        assert!(told(&named(&inside)).starts_with(", in `abort`"));
    }
}
