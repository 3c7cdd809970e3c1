//! A component's outline, read before anything is compiled: what it wants and answers, and how much there is to compile.
//! Knows no engine. Invariant: reads each byte at most once and keeps names only, so it takes milliseconds and no memory,
//! whatever the component holds.

use wasmparser::{ComponentTypeRef, Parser, Payload};

/// Bytes of one function. The compiler takes some hundred bytes of memory for each of these, and longer than in proportion;
/// the largest function of a Python guest has 420 KiB.
const FUNCTION_BYTES_MAX: u64 = 1 << 20;
/// Variables of one function, which the compiler follows through each of its loops: 59 KB with 5,000 of them kept it busy for
/// more than a minute. The most that a Python or JavaScript guest has in one are 483.
const LOCALS_MAX: u64 = 2_000;
/// Bytes of all functions: three times what the largest guests of today have.
const CODE_BYTES_MAX: u64 = 32 << 20;

/// Names of what the component as a whole imports and exports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Instances and functions; types alone grant nothing.
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
}

// === impl Survey ===

impl Survey {
    /// Err: it cannot be read, or is too much to compile.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, String> {
        let (mut survey, mut depth, mut code) = (Self::default(), 0_usize, 0);
        let unreadable = |error: wasmparser::BinaryReaderError| error.to_string();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(unreadable)? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    for import in imports {
                        let import = import.map_err(unreadable)?;
                        if matches!(import.ty, ComponentTypeRef::Instance(_) | ComponentTypeRef::Func(_)) {
                            survey.imports.push(import.name.name.to_owned());
                        }
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    for export in exports {
                        survey.exports.push(export.map_err(unreadable)?.name.name.to_owned());
                    }
                }
                Payload::CodeSectionStart { size, .. } => {
                    code += u64::from(size);
                    at_most("all its functions", code, CODE_BYTES_MAX, "bytes")?;
                }
                Payload::CodeSectionEntry(body) => {
                    let range = body.range();
                    at_most("one of its functions", (range.end - range.start) as u64, FUNCTION_BYTES_MAX, "bytes")?;
                    let mut locals = 0;
                    for group in body.get_locals_reader().map_err(unreadable)? {
                        locals += u64::from(group.map_err(unreadable)?.0);
                    }
                    at_most("one of its functions", locals, LOCALS_MAX, "variables")?;
                }
                _ => {}
            }
        }
        Ok(survey)
    }
}

fn at_most(what: &str, has: u64, max: u64, of: &str) -> Result<(), String> {
    if has <= max { Ok(()) } else { Err(format!("{what} had {has} {of} to compile, at most {max} are")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(code: &str) -> Vec<u8> {
        let frame =
            "(import \"wasi:cli/stdout@0.2.0\" (instance)) (export \"tidegate:policy/plugin@0.2.0\" (instance 0))";
        wat::parse_str(format!("(component (component (core module {code})) {frame})")).expect("a component")
    }

    // shows: X-05
    #[test]
    fn what_is_too_much_to_compile_is_told_by_its_outline() {
        let survey = Survey::of(&component("")).expect("an outline");
        assert_eq!(survey.imports, ["wasi:cli/stdout@0.2.0"]);
        assert_eq!(survey.exports, ["tidegate:policy/plugin@0.2.0"]);
        let nots = |count: usize| format!("(func (param i32) (result i32) local.get 0 {})", "i32.eqz ".repeat(count));
        let refused = Survey::of(&component(&nots(1_100_000))).expect_err("one function");
        assert!(refused.contains("one of its functions") && refused.contains("bytes"), "{refused}");
        let locals = |count: usize| format!("(func (local {}))", "i32 ".repeat(count));
        assert!(Survey::of(&component(&locals(2_000))).is_ok());
        let refused = Survey::of(&component(&locals(2_001))).expect_err("variables");
        assert!(refused.contains("2001 variables"), "{refused}");
        assert!(Survey::of(&component("")[..40]).is_err(), "cut off");
    }
}
