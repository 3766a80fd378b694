//! Shaders as an analyser sees them.

use crate::backend::webgpu::programs;
use std::collections::BTreeMap;

#[test]
fn declared_defaults_make_valid_shaders() {
    // The defaults of cooperative matrices are those of 16×16.
    let programs =
        programs().into_iter().map(|program| program.with_defaults()).filter(|program| !program.has("SIDE_8"));
    let distinct: BTreeMap<String, _> = programs.map(|program| (program.label(), program)).collect();
    for (label, program) in distinct {
        let source = program.shader().unwrap().source;
        if let Err(error) = naga::front::wgsl::parse_str(&source) {
            panic!("{label}: {}", error.emit_to_string(&source));
        }
    }
}
