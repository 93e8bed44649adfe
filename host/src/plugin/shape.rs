//! What a component may consist of, so that compiling it takes a bounded time and memory.
//!
//! A compiler works on one function at a time for each CPU. Its memory grows with what is in the function, and
//! with products of that: a variable costs something in each block, and each place where ways meet with different
//! values of a variable costs a kilobyte. Without bounds 90 KB of loops in loops took gigabytes.
//!
//! What plugins consist of is far from these bounds. The largest of JavaScript and Python, 9.2 and 6.5 MB of code,
//! have 13,400 functions with 100,000 calls, and in one function at most 427 KB, 279 variables, 3,100 calls,
//! 8,900 blocks, 59,000 merges.
//!
//! Not here: whether it is valid (wasmtime), and its size as a file (`load`).

use wasmparser::{BinaryReaderError, BlockType, FunctionBody, Operator, Parser, Payload};

use super::load::LoadError;

/// Bytes of one function.
const FUNCTION_BYTES_MAX: u64 = 1024 * 1024;

/// Variables of one function.
const LOCALS_MAX: u64 = 10_000;

/// Blocks of one function: what begins where a way goes off or others meet.
const BLOCKS_MAX: u64 = 100_000;

/// Variables times blocks of one function: a table of the compiler, four bytes each.
const CELLS_MAX: u64 = 5_000_000;

/// Merges of one function: variables that may differ where ways meet, and values that are carried there.
const MERGES_MAX: u64 = 200_000;

/// Merges of all functions, of which as many are compiled at a time as there are CPUs.
const MERGES_IN_ALL_MAX: u64 = 10_000_000;

/// Calls of one function: all registers are saved around each.
const CALLS_MAX: u64 = 30_000;

/// Calls of all functions: what is compiled is kept.
const CALLS_IN_ALL_MAX: u64 = 1_000_000;

/// Functions of all modules.
const FUNCTIONS_MAX: u64 = 50_000;

/// Bytes of all functions.
const CODE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Modules and components in it.
const PARTS_MAX: u64 = 1000;

/// Goes through a component, instruction by instruction: a tenth of a second for the largest, which then
/// take the compiler many seconds.
pub(super) fn check(bytes: &[u8]) -> Result<(), LoadError> {
    let (mut parts, mut functions, mut code, mut calls, mut merges) = (0, 0, 0, 0, 0);
    let mut module = Module::default();
    for payload in Parser::new(0).parse_all(bytes) {
        // What cannot be read the compiler refuses, in better words.
        let Ok(payload) = payload else { return Ok(()) };
        match payload {
            Payload::Version { .. } => {
                parts += 1;
                module = Module::default();
                bound("modules and components in it", parts, PARTS_MAX)?;
            }
            Payload::TypeSection(types) => {
                let types = types.into_iter_err_on_gc_types();
                module.types = types
                    .map_while(Result::ok)
                    .map(|ty| Arity {
                        takes: ty.params().len() as u64,
                        gives: ty.results().len() as u64,
                    })
                    .collect();
            }
            Payload::FunctionSection(types) => {
                module.functions = types.into_iter().map_while(Result::ok).collect();
                module.functions.reverse();
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
                let own = module.functions.pop().map_or(Arity::default(), |ty| module.arity(ty));
                let effort = effort(&body, locals, own, &module).map_err(unreadable)?;
                calls += effort.calls;
                merges += effort.merges;
                bound("blocks in one function", effort.blocks, BLOCKS_MAX)?;
                let cells = effort.blocks.saturating_mul(locals + own.takes);
                bound("variables times blocks in one function", cells, CELLS_MAX)?;
                bound("merges of variables in one function", effort.merges, MERGES_MAX)?;
                bound("merges of variables", merges, MERGES_IN_ALL_MAX)?;
                bound("calls in one function", effort.calls, CALLS_MAX)?;
                bound("calls", calls, CALLS_IN_ALL_MAX)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn bound(what: &'static str, found: u64, max: u64) -> Result<(), LoadError> {
    if found > max { Err(LoadError::Shape { what, found, max }) } else { Ok(()) }
}

/// What is not read here is not bounded, so it is not compiled.
fn unreadable(error: BinaryReaderError) -> LoadError {
    LoadError::Compile(error.to_string())
}

/// How many values something takes and gives.
#[derive(Clone, Copy, Default)]
struct Arity {
    takes: u64,
    gives: u64,
}

/// What functions of a core module refer to.
#[derive(Default)]
struct Module {
    types: Vec<Arity>,
    /// Types of the functions that are still to come, the next one last.
    functions: Vec<u32>,
}

impl Module {
    fn arity(&self, ty: u32) -> Arity {
        usize::try_from(ty).ok().and_then(|ty| self.types.get(ty)).copied().unwrap_or_default()
    }

    fn of_block(&self, ty: BlockType) -> Arity {
        match ty {
            BlockType::Empty => Arity::default(),
            BlockType::Type(_) => Arity { takes: 0, gives: 1 },
            BlockType::FuncType(ty) => self.arity(ty),
        }
    }
}

/// What one function asks of a compiler, or a little more.
#[derive(Default)]
struct Effort {
    blocks: u64,
    merges: u64,
    calls: u64,
}

/// A block that has begun.
struct Open {
    /// Uses of variables before it.
    before: u64,
    /// Values that a branch to it carries.
    carried: u64,
}

fn effort(
    body: &FunctionBody<'_>,
    locals: u64,
    own: Arity,
    module: &Module,
) -> Result<Effort, BinaryReaderError> {
    let (mut effort, mut uses) = (Effort::default(), 0);
    let mut open = vec![Open { before: 0, carried: own.gives }];
    let carried = |open: &[Open], depth: u32| {
        let place = usize::try_from(depth).ok().and_then(|depth| open.len().checked_sub(depth + 1));
        place.map_or(0, |place| open[place].carried)
    };
    for operator in body.get_operators_reader()? {
        match operator? {
            Operator::LocalGet { .. } | Operator::LocalSet { .. } | Operator::LocalTee { .. } => {
                uses += 1;
            }
            Operator::Block { blockty } | Operator::If { blockty } => {
                let arity = module.of_block(blockty);
                effort.blocks += 1;
                effort.merges += arity.takes + arity.gives;
                open.push(Open { before: uses, carried: arity.gives });
            }
            Operator::Loop { blockty } => {
                let arity = module.of_block(blockty);
                effort.blocks += 1;
                effort.merges += arity.takes + arity.gives;
                open.push(Open { before: uses, carried: arity.takes });
            }
            Operator::TryTable { try_table } => {
                let arity = module.of_block(try_table.ty);
                effort.blocks += 1 + try_table.catches.len() as u64;
                effort.merges += arity.takes + arity.gives;
                open.push(Open { before: uses, carried: arity.gives });
            }
            Operator::Else => effort.blocks += 1,
            // Whatever was used in it may differ at its end, or at its beginning if it is a loop.
            Operator::End => {
                if let Some(ended) = open.pop() {
                    effort.merges += (locals + own.takes).min(uses - ended.before);
                }
            }
            Operator::Br { relative_depth } | Operator::BrIf { relative_depth } => {
                effort.blocks += 1;
                effort.merges += carried(&open, relative_depth);
            }
            Operator::BrTable { targets } => {
                effort.blocks += 1;
                effort.merges += carried(&open, targets.default());
                for target in targets.targets() {
                    effort.merges += carried(&open, target?);
                }
            }
            Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. } => effort.calls += 1,
            _ => {}
        }
    }
    Ok(effort)
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
        let many = "(func)".repeat(50_001);
        let large = format!("(func {})", "nop ".repeat(1_000_000)).repeat(34);

        assert!(
            refused(&long).ends_with("bytes of code in one function; a plugin may have 1048576")
        );
        assert!(refused(&locals).starts_with("has 10001 variables in one function;"));
        assert!(refused(&many).starts_with("has 50001 functions;"));
        assert!(refused(&large).contains("bytes of code; a plugin may have 33554432"));
        let parts = format!("(component {})", "(core module)".repeat(1000));
        let parts = check(&wat::parse_str(parts).unwrap()).unwrap_err().to_string();
        assert!(parts.starts_with("has 1001 modules and components in it;"), "{parts}");
    }

    /// A variable in each of many blocks, and where they meet: small files that took gigabytes.
    #[test]
    fn products_that_take_a_compiler_too_much_memory_are_refused() {
        let variables = format!("(local{})", " i32".repeat(2000));
        let each = |what: &str| -> String {
            (0..2000).map(|index| what.replace("N", &index.to_string())).collect()
        };
        let (gets, sets) = (each("(drop (local.get N))"), each("(local.set N (i32.const 1))"));
        let nested = |open: &str, times: usize, inner: &str, end: &str| {
            let (open, end) = (open.repeat(times), end.repeat(times));
            refused(&format!("(func {variables} {open} {inner} {end})"))
        };
        let blocks = "i32.const 0 if end ".repeat(3000);

        let loops = nested("loop ", 130, &sets, "i32.const 0 br_if 0 end ");
        assert!(loops.contains("merges of variables in one function"), "{loops}");
        let ends = nested("block ", 130, &format!("i32.const 0 br_if 9 {sets}"), "end ");
        assert!(ends.contains("merges of variables in one function"), "{ends}");
        let table = refused(&format!("(func {variables} {blocks} {gets})"));
        assert!(table.contains("has 6000000 variables times blocks in one function"), "{table}");
        let blocks = refused(&format!("(func {})", "i32.const 0 if end ".repeat(100_001)));
        assert!(blocks.contains("has 100001 blocks in one function"), "{blocks}");
        let calls = refused(&format!("(func {})", "call 0 ".repeat(30_001)));
        assert!(calls.contains("has 30001 calls in one function"), "{calls}");
        let some = format!("(func {})", "call 0 ".repeat(30_000)).repeat(34);
        assert!(refused(&some).contains("calls; a plugin may have 1000000"), "{}", refused(&some));
        let carried = format!(
            "(type (func (result{}))) (func block (type 0) {} {} end {})",
            " i32".repeat(1000),
            "i32.const 0 ".repeat(1000),
            "i32.const 0 br_if 0 ".repeat(250),
            "drop ".repeat(1000),
        );
        assert!(refused(&carried).contains("merges of variables"), "{}", refused(&carried));
    }

    #[test]
    fn what_is_no_wasm_at_all_is_left_to_the_compiler() {
        assert!(check(b"text").is_ok());
        assert!(check(b"\0asm\x0d\0\x01\0\x01\xff").is_ok());
    }
}
