//! Constants without identity where the same bytes are cut into objects differently.

use super::{Context, Judge, Node, object_context};
use crate::side::{Side, significant_size};
use hotgraft_program::{Entity, Form, FunctionId, ObjectId, Program, Reference};

impl Judge<'_, '_> {
    /// Constants from an address on to the end of the object that is known to hold it. The ends are where the next
    /// reference leads, so the same constant may seem longer in one image than in the other; then all of the longer one
    /// must agree. Without names, where objects have no other boundaries, it is enough that they begin alike and that
    /// all the rest also stands in the other image, piece by piece: it belongs to neighbours that moved. A reference to a
    /// function that the other image does not have at all belongs to no neighbour that moved.
    pub(super) fn regions(
        &self,
        x: (u32, ObjectId),
        y: (u32, ObjectId),
        context: Context,
        relied: &mut Vec<Node>,
    ) -> bool {
        let (old, new) = (&self.m.old, &self.m.new);
        // A text says itself where it ends, and is all that it says.
        let kind = |side: &Side<'_>, id: ObjectId| std::mem::discriminant(&side.program.objects[id.index()].kind);
        if let (Some(s), Some(t)) = (text_at(old, x), text_at(new, y)) {
            return s == t && kind(old, x.1) == kind(new, y.1);
        }
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
        same > 0
            && new.holds(old, x.0 + same, n - same)
            && old.holds(new, y.0 + same, k - same)
            && known(old.program, (x.0 + same, x.0 + n), |f| self.m.functions.new_of(f).is_some())
            && known(new.program, (y.0 + same, y.0 + k), |f| self.m.functions.old_of(f).is_some())
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
        let reads = |side: &Side<'_>, id, site| side.code(id).step_at(site).map_or(0, |s| s.reads);
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

/// True if no reference in a run of bytes leads to a function that has no counterpart.
fn known(program: &Program, run: (u32, u32), has_counterpart: impl Fn(FunctionId) -> bool) -> bool {
    program.references_in(run.0, run.1).iter().all(|reference| match reference.target.entity {
        Entity::Function(f) | Entity::Fragment(f, _) => has_counterpart(f),
        _ => true,
    })
}

/// The text that begins at an address in an object, if the object is one.
fn text_at<'a>(side: &Side<'a>, (rva, id): (u32, ObjectId)) -> Option<&'a [u8]> {
    side.text_of(id, i64::from(rva) - i64::from(side.program.objects[id.index()].rva))
}
