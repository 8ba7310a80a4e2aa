//! Addresses at the edge of an object, which may mean the object before or behind.

use super::{Context, Judge, Node, PADDING};
use hotgraft_program::{Entity, Form, ObjectId, Program, Reference};

impl Judge<'_, '_> {
    /// The second reading of an address: just behind the object before it, or before the object that follows (an array
    /// whose index does not start at 0). A wrong second reading would hide a change, so it is believed only if
    /// - what stands at the address on the two sides is not a pair (then the first reading already answered), and
    ///   each exists on the other side, too (else a thing may have been replaced by another one);
    /// - the object before (or behind) is matched, equally large and equally far away;
    /// - for an end: the same code also refers to the object itself, and does nothing with the address but compare it;
    ///   an address in data must not lead to something without identity;
    /// - for a biased array: the address is only computed, and is neither a known start nor inside a text.
    pub(super) fn neighbours(&self, x: &Reference, y: &Reference, context: Context) -> bool {
        let m = self.m;
        let (old, new) = (m.old.program, m.new.program);
        let stays = |reference: &Reference, old_side: bool| match reference.target.entity {
            Entity::Object(id) if old_side => m.objects.new_of(id).is_some(),
            Entity::Object(id) => m.objects.old_of(id).is_some(),
            Entity::Unknown => true,
            _ => false,
        };
        if !stays(x, true) || !stays(y, false) {
            return false;
        }
        if let (Entity::Object(p), Entity::Object(q)) = (x.target.entity, y.target.entity)
            && m.objects.are(p, q)
        {
            return false;
        }
        if let (Some((a, da)), Some((b, db))) = (before(old, x.rva), before(new, y.rva))
            && da == db
            && m.objects.are(a, b)
            && old.objects[a.index()].size == new.objects[b.index()].size
            && da - old.objects[a.index()].size < PADDING
            && self.refers(context, a, b)
            && self.is_bound(x, y, context)
        {
            return true;
        }
        let anonymous = |reference: &Reference, side: &crate::side::Side<'_>| match reference.target.entity {
            Entity::Object(id) => reference.target.addend == 0 || side.text_of(id, 0).is_some(),
            _ => false,
        };
        if anonymous(x, &m.old) || anonymous(y, &m.new) || !self.is_computed(x, y, context) {
            return false;
        }
        if let (Some((a, da)), Some((b, db))) = (behind(old, x.rva), behind(new, y.rva)) {
            return da == db && da <= 4096 && m.objects.are(a, b);
        }
        false
    }

    /// Nothing but an end can be meant.
    fn is_bound(&self, x: &Reference, y: &Reference, context: Context) -> bool {
        let m = self.m;
        match context.owner {
            Node::Function(a, b) => {
                x.form == Form::RipRelative
                    && crate::code::is_only_compared(m.old.program, a, x.site)
                    && crate::code::is_only_compared(m.new.program, b, y.site)
            }
            Node::Object(..) => {
                let telling = |side: &crate::side::Side<'_>, entity| match entity {
                    Entity::Object(id) => side.has_identity(id),
                    _ => true,
                };
                telling(&m.old, x.target.entity) && telling(&m.new, y.target.entity)
            }
        }
    }

    fn is_computed(&self, x: &Reference, y: &Reference, context: Context) -> bool {
        if x.form != Form::RipRelative {
            return true;
        }
        let Node::Function(a, b) = context.owner else { return true };
        let computes =
            |side: &crate::side::Side<'_>, id, site| side.code(id).step_at(site).is_some_and(|s| s.takes_address);
        computes(&self.m.old, a, x.site) && computes(&self.m.new, b, y.site)
    }

    fn refers(&self, context: Context, a: ObjectId, b: ObjectId) -> bool {
        let m = self.m;
        match context.owner {
            Node::Function(f, g) => {
                m.old.references_of(f).any(|r| r.target.entity == Entity::Object(a))
                    && m.new.references_of(g).any(|r| r.target.entity == Entity::Object(b))
            }
            Node::Object(p, q) => {
                m.old.references_in_object(p).iter().any(|r| r.target.entity == Entity::Object(a))
                    && m.new.references_in_object(q).iter().any(|r| r.target.entity == Entity::Object(b))
            }
        }
    }
}

/// The object that ends at or before `rva` and the distance from its start.
fn before(program: &Program, rva: u32) -> Option<(ObjectId, u32)> {
    let i = program.objects.partition_point(|o| o.rva < rva).checked_sub(1)?;
    let o = &program.objects[i];
    (!o.contains(rva)).then(|| (ObjectId::from(i), rva - o.rva))
}

/// The first object that starts behind `rva` and the distance to it.
fn behind(program: &Program, rva: u32) -> Option<(ObjectId, u32)> {
    let i = program.objects.partition_point(|o| o.rva <= rva);
    Some((ObjectId::from(i), program.objects.get(i)?.rva - rva))
}
