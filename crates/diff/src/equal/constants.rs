//! Constants without identity where the same bytes are cut into objects differently.

use super::{Context, Judge, Node, object_context};
use crate::side::significant_size;
use hotgraft_program::{Form, ObjectId, Program, Reference};

impl Judge<'_, '_> {
    /// Constants from an address on to the end of the object that is known to hold it. The ends are where the next
    /// reference leads, so the same constant may seem longer in one image than in the other; then all of the longer one
    /// must agree. Without names, where objects have no other boundaries, it is enough that they begin alike and that
    /// all the rest also stands in the other image, piece by piece: it belongs to neighbours that moved.
    pub(super) fn regions(
        &self,
        x: (u32, ObjectId),
        y: (u32, ObjectId),
        context: Context,
        relied: &mut Vec<Node>,
    ) -> bool {
        let (old, new) = (&self.m.old, &self.m.new);
        let length = |program: &Program, at: (u32, ObjectId)| {
            let o = &program.objects[at.1.index()];
            (o.rva + significant_size(program, o)).saturating_sub(at.0)
        };
        let (n, k) = (length(old.program, x), length(new.program, y));
        let (least, most) = (n.min(k), n.max(k));
        if is_constant_run(old.program, x.0, most)
            && is_constant_run(new.program, y.0, most)
            && self.runs_at(x.0, y.0, most, context, relied)
        {
            return true;
        }
        if old.named {
            return false;
        }
        // In pieces, so that a neighbour may begin before the shorter one seems to end.
        const PIECE: u32 = 8;
        let mut same = 0;
        while same < least {
            let size = PIECE.min(least - same);
            if !self.runs_at(x.0 + same, y.0 + same, size, context, relied) {
                break;
            }
            same += size;
        }
        same > 0 && new.holds(old, x.0 + same, n - same) && old.holds(new, y.0 + same, k - same)
    }

    /// Constants without identity that lie in objects at different offsets: what an instruction reads at a fixed
    /// address is known to the byte; where it takes the address, everything up to the end of the object counts.
    pub(super) fn constants(
        &self,
        x: (&Reference, ObjectId),
        y: (&Reference, ObjectId),
        context: Context,
        relied: &mut Vec<Node>,
    ) -> bool {
        let m = self.m;
        let Node::Function(a, b) = context.owner else { return false };
        let within = object_context(m, x.1, y.1);
        let reads = |side: &crate::side::Side<'_>, id, site| side.code(id).step_at(site).map_or(0, |s| s.reads);
        let size = if x.0.form == Form::RipRelative { reads(&m.old, a, x.0.site) } else { 0 };
        if size > 0 {
            return size == reads(&m.new, b, y.0.site)
                && is_constant_run(m.old.program, x.0.rva, u32::from(size))
                && is_constant_run(m.new.program, y.0.rva, u32::from(size))
                && self.runs_at(x.0.rva, y.0.rva, u32::from(size), within, relied);
        }
        x.0.target.addend != y.0.target.addend && self.regions((x.0.rva, x.1), (y.0.rva, y.1), within, relied)
    }
}

/// True if `size` bytes at `rva` lie in one section that is not writable.
fn is_constant_run(program: &Program, rva: u32, size: u32) -> bool {
    program.image.section_at(rva).is_some_and(|s| {
        !s.is_writable() && rva.checked_add(size).is_some_and(|end| end <= s.rva.saturating_add(s.size))
    })
}
