//! WIP
use super::descent::Descent;
use super::{Context, Flow, RawJumpTable, RawOffsetTable, RawReference, x64};
use crate::function::Problem;
use crate::image::Image;

/// What the dataflow found.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) targets: Vec<(u32, Vec<u32>)>,
    pub(super) jump_tables: Vec<RawJumpTable>,
    pub(super) offset_tables: Vec<RawOffsetTable>,
    pub(super) displacements: Vec<RawReference>,
    pub(super) tail_jumps: Vec<u32>,
    pub(super) problems: Vec<Problem>,
}

pub(super) fn solve(_image: &Image, descent: &Descent<'_>, _roots: &[u32], _context: &Context<'_>) -> Findings {
    let mut out = Findings::default();
    for step in &descent.steps {
        if step.decoded.flow == Flow::IndirectJump {
            if x64::rip_target(&step.instruction).is_some() {
                out.tail_jumps.push(step.rva);
            } else {
                let text = format!("the indirect jump at {:#x} is not understood", step.rva);
                out.problems.push(Problem { rva: step.rva, key: "code.indirect_jump.unresolved", text });
            }
        }
    }
    out
}
