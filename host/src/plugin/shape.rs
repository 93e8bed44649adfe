//! What a component may consist of, so that compiling it takes a bounded time and memory.
//!
//! A compiler works on one function at a time for each CPU, and needs some hundred times the function's
//! size for that, more than in proportion to its length and its locals. What compilers of plugins make is
//! far from these bounds: of a Python plugin 6.6 MB are code, in 13,400 functions of up to 427 KB.
//!
//! Not here: whether it is valid (wasmtime), and its size as a file (`load`).

use wasmparser::{Parser, Payload};

use super::load::LoadError;

/// Bytes of one function.
const FUNCTION_BYTES_MAX: u64 = 1024 * 1024;

/// Variables of one function.
const LOCALS_MAX: u64 = 10_000;

/// Functions of all modules.
const FUNCTIONS_MAX: u64 = 100_000;

/// Bytes of all functions.
const CODE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Modules and components in it.
const PARTS_MAX: u64 = 1000;

/// Goes through a component without looking into its functions: milliseconds.
pub(super) fn check(bytes: &[u8]) -> Result<(), LoadError> {
    let (mut parts, mut functions, mut code) = (0, 0, 0);
    for payload in Parser::new(0).parse_all(bytes) {
        // What cannot be read the compiler refuses, in better words.
        let Ok(payload) = payload else { return Ok(()) };
        match payload {
            Payload::Version { .. } => {
                parts += 1;
                bound("modules and components in it", parts, PARTS_MAX)?;
            }
            Payload::CodeSectionEntry(body) => {
                let length = body.range().len() as u64;
                functions += 1;
                code += length;
                bound("bytes of code in one function", length, FUNCTION_BYTES_MAX)?;
                bound("functions", functions, FUNCTIONS_MAX)?;
                bound("bytes of code", code, CODE_BYTES_MAX)?;
                let locals = body.get_locals_reader().into_iter().flatten().flatten();
                let locals: u64 = locals.map(|(count, _)| u64::from(count)).sum();
                bound("variables in one function", locals, LOCALS_MAX)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn bound(what: &'static str, found: u64, max: u64) -> Result<(), LoadError> {
    if found > max { Err(LoadError::Shape { what, found, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(items: &str) -> String {
        let component = wat::parse_str(format!("(component (core module {items}))")).unwrap();
        check(&component).unwrap_err().to_string()
    }

    #[test]
    fn what_takes_a_compiler_too_long_is_refused_in_words() {
        let long = format!("(func {})", "nop ".repeat(1 << 20));
        let locals = format!("(func (local{}))", " i32".repeat(10_001));
        let many = "(func)".repeat(100_001);
        let large = format!("(func {})", "nop ".repeat(1_000_000)).repeat(34);

        assert!(
            refused(&long).ends_with("bytes of code in one function; a plugin may have 1048576")
        );
        assert!(refused(&locals).starts_with("has 10001 variables in one function;"));
        assert!(refused(&many).starts_with("has 100001 functions;"));
        assert!(refused(&large).contains("bytes of code; a plugin may have 33554432"));
        let parts = format!("(component {})", "(core module)".repeat(1000));
        let parts = check(&wat::parse_str(parts).unwrap()).unwrap_err().to_string();
        assert!(parts.starts_with("has 1001 modules and components in it;"), "{parts}");
    }

    #[test]
    fn what_is_no_wasm_at_all_is_left_to_the_compiler() {
        assert!(check(b"text").is_ok());
        assert!(check(b"\0asm\x0d\0\x01\0\x01\xff").is_ok());
    }
}
