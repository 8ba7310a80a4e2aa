//! When two functions, objects or addresses are equal through the correspondence.
//!
//! Functions are equal if their ranges have the same shape, their bytes are the same where no address is encoded, their
//! addresses correspond one by one, and their unwind information says the same. Objects are equal if the same holds for
//! their bytes. Two addresses correspond if they lead to
//! - the entries of matched functions (changed or not: the callee keeps its identity), or the same place inside
//!   functions that are equal;
//! - the same variable: matched, same offset;
//! - the same constant: matched by name (its own difference is reported with the object), or equal content. Strings,
//!   literals and jump tables have no identity of their own: they are what they contain;
//! - the same import, or the same place of the headers.
//!
//! An address that nothing explains never corresponds. An address at the end of one object may be the start of the next
//! one or the end of the former; [`Judge::neighbours`] says when the second reading is believed.
//!
//! Objects whose end is exact must have the same size. Where only a boundary is known, what follows the last byte that
//! is not zero and the last reference is taken for padding, up to [`PADDING`] bytes.

mod constants;
mod neighbours;

use crate::matching::Matches;
use crate::side::{is_loader_table, range_size, significant_size};
use hotgraft_program::{
    Entity, Extent, Form, Function, FunctionId, Object, ObjectId, ObjectKind, Program, Reference, UnwindInfo,
};
use rustc_hash::FxHashSet;

/// Zeros behind an object of unknown end that count as padding: the largest usual alignment.
const PADDING: u32 = 64;

/// A question of the fixed point: are these two equal?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    Function(FunctionId, FunctionId),
    Object(ObjectId, ObjectId),
}

/// In what way two addresses do not correspond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Apart {
    /// Other function, variable or import, or another place in it.
    Reference,
    /// Text that differs.
    Text,
    /// A constant without identity whose content differs.
    Constant,
    /// Jump table that differs.
    JumpTable,
    /// An address that is not explained.
    Unknown,
}

/// Where a reference stands.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    /// The functions that the code, unwind data or jump table belongs to: places in them correspond by offset.
    pub(crate) home: Option<(FunctionId, FunctionId)>,
    /// Whose references these are.
    pub(crate) owner: Node,
    /// True if an address just behind the home function means its end (unwind data, jump tables).
    pub(crate) end_of_home: bool,
}

/// Answers under the assumption that everything is equal but what is known to be unequal.
pub(crate) struct Judge<'m, 'a> {
    pub(crate) m: &'m Matches<'a>,
    pub(crate) unequal: &'m FxHashSet<Node>,
}

impl Judge<'_, '_> {
    fn rely(&self, node: Node, relied: &mut Vec<Node>) -> bool {
        let assumed = !self.unequal.contains(&node);
        if assumed {
            relied.push(node);
        }
        assumed
    }

    /// Is the pair equal? Adds to `relied` what that rests on.
    pub(crate) fn node(&self, node: Node, relied: &mut Vec<Node>) -> bool {
        match node {
            Node::Function(a, b) => self.functions(a, b, relied),
            Node::Object(a, b) => self.objects(a, b, relied),
        }
    }

    fn functions(&self, a: FunctionId, b: FunctionId, relied: &mut Vec<Node>) -> bool {
        let (old, new) = (self.m.old.program, self.m.new.program);
        if self.m.old.body[a.index()] != self.m.new.body[b.index()] {
            return false;
        }
        let (f, g) = (&old.functions[a.index()], &new.functions[b.index()]);
        let context = Context { home: Some((a, b)), owner: Node::Function(a, b), end_of_home: false };
        f.ranges.len() == g.ranges.len()
            && f.ranges.iter().zip(&g.ranges).enumerate().all(|(n, (r, s))| {
                let size = range_size(old, r);
                let references = || match n {
                    0 => (self.m.old.in_entry_range(a), self.m.new.in_entry_range(b)),
                    _ => (old.references_in(r.rva, r.end()), new.references_in(s.rva, s.end())),
                };
                r.kind == s.kind
                    && size == range_size(new, s)
                    && self.runs(r.rva, s.rva, size, references(), context, relied)
            })
            && self.unwinds(a, b, relied, |_, _| false)
    }

    /// Unwind information of two functions, with handlers and their data. In functions of other layout, `follows` says
    /// which places became each other, and how much the entries cover is no difference of its own.
    pub(crate) fn unwinds(
        &self,
        a: FunctionId,
        b: FunctionId,
        relied: &mut Vec<Node>,
        follows: impl Fn(u32, u32) -> bool,
    ) -> bool {
        let (old, new) = (self.m.old.program, self.m.new.program);
        let (f, g) = (&old.functions[a.index()], &new.functions[b.index()]);
        let same_layout = self.m.old.body[a.index()] == self.m.new.body[b.index()];
        f.unwind.len() == g.unwind.len()
            && f.unwind.iter().zip(&g.unwind).all(|(u, v)| {
                let (u, v) = (&old.unwind[*u as usize], &new.unwind[*v as usize]);
                (!same_layout || same_cover(f, u, g, v)) && self.unwind(a, u, b, v, relied, &follows)
            })
    }

    fn unwind(
        &self,
        a: FunctionId,
        u: &UnwindInfo,
        b: FunctionId,
        v: &UnwindInfo,
        relied: &mut Vec<Node>,
        follows: &impl Fn(u32, u32) -> bool,
    ) -> bool {
        let context = Context { home: Some((a, b)), owner: Node::Function(a, b), end_of_home: true };
        let (old, new) = (&self.m.old.program.image, &self.m.new.program.image);
        let (Some(x), Some(y)) = (old.bytes(u.info, u.size as usize), new.bytes(v.info, v.size as usize)) else {
            return false;
        };
        u.chained == v.chained
            && u.handler_data == v.handler_data
            && masked_equal(x, u.info, &u.references, y, v.info, &v.references)
            && u.references
                .iter()
                .zip(&v.references)
                .all(|(r, s)| follows(r.rva, s.rva) || self.targets(r, s, context, relied).is_ok())
    }

    /// Two runs of bytes of the same size.
    pub(super) fn runs_at(&self, a: u32, b: u32, size: u32, context: Context, relied: &mut Vec<Node>) -> bool {
        let (old, new) = (self.m.old.program, self.m.new.program);
        let references = (old.references_in(a, a.saturating_add(size)), new.references_in(b, b.saturating_add(size)));
        self.runs(a, b, size, references, context, relied)
    }

    /// Two runs of bytes of the same size; the references are those in them, perhaps with some behind them.
    pub(super) fn runs(
        &self,
        a: u32,
        b: u32,
        size: u32,
        references: (&[Reference], &[Reference]),
        context: Context,
        relied: &mut Vec<Node>,
    ) -> bool {
        let (old, new) = (self.m.old.program, self.m.new.program);
        let (Some(x), Some(y)) = (old.image.bytes(a, size as usize), new.image.bytes(b, size as usize)) else {
            return false;
        };
        let (r, s) = (before(references.0, a.saturating_add(size)), before(references.1, b.saturating_add(size)));
        masked_equal(x, a, r, y, b, s) && r.iter().zip(s).all(|(r, s)| self.targets(r, s, context, relied).is_ok())
    }

    fn objects(&self, a: ObjectId, b: ObjectId, relied: &mut Vec<Node>) -> bool {
        let (old, new) = (self.m.old.program, self.m.new.program);
        let (o, p) = (&old.objects[a.index()], &new.objects[b.index()]);
        if o.writable != p.writable {
            return false;
        }
        if is_loader_table(o.kind) || is_loader_table(p.kind) {
            return std::mem::discriminant(&o.kind) == std::mem::discriminant(&p.kind);
        }
        let context = object_context(self.m, a, b);
        match common_size(old, o, new, p) {
            Some(size) => {
                let (x, y) = (self.m.old.bytes_of(o), self.m.new.bytes_of(p));
                // What the file does not hold is zero.
                let held = size.min(x.len().max(y.len()) as u32);
                if x.len() < held as usize || y.len() < held as usize {
                    return significant_size(old, o) == 0 && significant_size(new, p) == 0;
                }
                let references = (self.m.old.references_in_object(a), self.m.new.references_in_object(b));
                self.runs(o.rva, p.rva, held, references, context, relied)
            }
            // The same bytes may be cut into objects elsewhere, by a reference into them.
            None if !o.writable && !self.m.old.has_identity(a) && !self.m.new.has_identity(b) => {
                self.regions((o.rva, a), (p.rva, b), context, relied)
            }
            None => false,
        }
    }

    /// Do two references lead to the same thing? The error says in what way they do not.
    pub(crate) fn targets(
        &self,
        x: &Reference,
        y: &Reference,
        context: Context,
        relied: &mut Vec<Node>,
    ) -> Result<(), Apart> {
        let m = self.m;
        let (old, new) = (m.old.program, m.new.program);
        // Where control cannot get (the default of a switch that has none), compilers let it fall off the end.
        let unexplained = matches!(x.target.entity, Entity::Unknown) || matches!(y.target.entity, Entity::Unknown);
        if let Some((f, g)) = context.home
            && (context.end_of_home || x.form == Form::Branch && unexplained)
            && same_place_or_end(&old.functions[f.index()], x.rva, &new.functions[g.index()], y.rva)
        {
            return Ok(());
        }
        let same_place = x.target.addend == y.target.addend;
        let apart = match (x.target.entity, y.target.entity) {
            (Entity::Function(f), Entity::Function(g)) => {
                let entry = x.target.addend == 0;
                let same = context.home == Some((f, g))
                    || if m.functions.are(f, g) {
                        entry || self.rely(Node::Function(f, g), relied)
                    } else {
                        self.is_folded(f, g) && self.rely(Node::Function(f, g), relied)
                    };
                if same && same_place {
                    return Ok(());
                }
                Apart::Reference
            }
            (Entity::Fragment(f, n), Entity::Fragment(g, k)) => {
                let same = context.home == Some((f, g))
                    || (m.functions.are(f, g) || self.is_folded(f, g)) && self.rely(Node::Function(f, g), relied);
                if same && n == k && same_place {
                    return Ok(());
                }
                Apart::Reference
            }
            (Entity::Import(i), Entity::Import(k)) => {
                let (i, k) = (&old.imports[i.index()], &new.imports[k.index()]);
                if i.name == k.name && i.delayed == k.delayed && i.dll.eq_ignore_ascii_case(&k.dll) && same_place {
                    return Ok(());
                }
                Apart::Reference
            }
            (Entity::ImageBase, Entity::ImageBase) if same_place => return Ok(()),
            (Entity::Object(p), Entity::Object(q)) => match self.object_targets(x, p, y, q, context, relied) {
                Ok(()) => return Ok(()),
                Err(apart) => apart,
            },
            (Entity::Unknown, _) | (_, Entity::Unknown) => Apart::Unknown,
            _ => Apart::Reference,
        };
        if self.neighbours(x, y, context) { Ok(()) } else { Err(apart) }
    }

    fn object_targets(
        &self,
        x: &Reference,
        p: ObjectId,
        y: &Reference,
        q: ObjectId,
        context: Context,
        relied: &mut Vec<Node>,
    ) -> Result<(), Apart> {
        let m = self.m;
        let (o, r) = (&m.old.program.objects[p.index()], &m.new.program.objects[q.index()]);
        let same_place = x.target.addend == y.target.addend;
        let matched = m.objects.are(p, q);
        if o.writable || r.writable {
            return if matched && same_place && o.writable == r.writable { Ok(()) } else { Err(Apart::Reference) };
        }
        let identity = m.old.has_identity(p) && m.new.has_identity(q);
        if same_place && (identity && matched || self.rely(Node::Object(p, q), relied)) {
            return Ok(());
        }
        let texts = (m.old.text_of(p, x.target.addend), m.new.text_of(q, y.target.addend));
        let same_unit = std::mem::discriminant(&o.kind) == std::mem::discriminant(&r.kind);
        if let (Some(s), Some(t)) = texts
            && s == t
            && same_unit
            && !identity
        {
            return Ok(());
        }
        let anonymous = !m.old.has_identity(p) && !m.new.has_identity(q);
        if anonymous && self.constants((x, p), (y, q), context, relied) {
            return Ok(());
        }
        Err(match (o.kind, r.kind) {
            _ if identity => Apart::Reference,
            (ObjectKind::JumpTable(_), ObjectKind::JumpTable(_)) => Apart::JumpTable,
            (ObjectKind::String | ObjectKind::WideString, ObjectKind::String | ObjectKind::WideString) => Apart::Text,
            _ => Apart::Constant,
        })
    }

    /// Functions that may be one by folding of equal code: they share a name, or one of them exists on its side only.
    fn is_folded(&self, f: FunctionId, g: FunctionId) -> bool {
        let m = self.m;
        m.functions.new_of(f).is_none()
            || m.functions.old_of(g).is_none()
            || m.old.function_names(f).any(|name| m.new.function_names(g).any(|other| other == name))
    }
}

/// The context of references that an object holds.
pub(crate) fn object_context(m: &Matches<'_>, a: ObjectId, b: ObjectId) -> Context {
    let home = match (m.old.program.objects[a.index()].kind, m.new.program.objects[b.index()].kind) {
        (ObjectKind::JumpTable(f), ObjectKind::JumpTable(g)) if m.functions.are(f, g) => Some((f, g)),
        _ => None,
    };
    Context { home, owner: Node::Object(a, b), end_of_home: true }
}

/// Bytes to compare, or `None` if the sizes say that the objects differ.
pub(crate) fn common_size(old: &Program, o: &Object, new: &Program, p: &Object) -> Option<u32> {
    if o.size == p.size {
        return Some(o.size);
    }
    if o.extent == Extent::Exact && p.extent == Extent::Exact {
        return None;
    }
    let size = o.size.min(p.size);
    let (larger, program) = if o.size > p.size { (o, old) } else { (p, new) };
    // A text ends where it ends; what follows it on the other side may be any filler.
    let text = |o: &Object| matches!(o.kind, ObjectKind::String | ObjectKind::WideString);
    let padding = larger.extent == Extent::Boundary && (larger.size - size < PADDING || text(o) != text(p));
    (padding && significant_size(program, larger) <= size).then_some(size)
}

/// Those that stand before `end`.
fn before(references: &[Reference], end: u32) -> &[Reference] {
    let behind = references.iter().rev().take_while(|r| r.site >= end).count();
    &references[..references.len() - behind]
}

/// Bytes equal except where references stand, and references of the same form at the same places.
pub(crate) fn masked_equal(x: &[u8], a: u32, r: &[Reference], y: &[u8], b: u32, s: &[Reference]) -> bool {
    if x.len() != y.len() || r.len() != s.len() {
        return false;
    }
    let mut at = 0usize;
    for (r, s) in r.iter().zip(s) {
        let (offset, other) = (r.site.wrapping_sub(a), s.site.wrapping_sub(b));
        if offset != other || r.width != s.width || r.form != s.form {
            return false;
        }
        let offset = offset as usize;
        let end = offset + usize::from(r.width);
        if end > x.len() || offset < at {
            return false;
        }
        if x[at..offset] != y[at..offset] {
            return false;
        }
        at = end;
    }
    x[at..] == y[at..]
}

/// Offset of `rva` in a function as (range, offset); the end of a range counts as a place of it.
fn place_or_end(f: &Function, rva: u32) -> Option<(usize, u32)> {
    f.ranges
        .iter()
        .position(|r| r.contains(rva))
        .or_else(|| f.ranges.iter().position(|r| r.end() == rva))
        .map(|n| (n, rva - f.ranges[n].rva))
}

fn same_place_or_end(f: &Function, x: u32, g: &Function, y: u32) -> bool {
    place_or_end(f, x).is_some_and(|place| place_or_end(g, y) == Some(place))
}

/// The same bytes of the functions are covered.
fn same_cover(f: &Function, u: &UnwindInfo, g: &Function, v: &UnwindInfo) -> bool {
    same_place_or_end(f, u.begin, g, v.begin) && u.end.wrapping_sub(u.begin) == v.end.wrapping_sub(v.begin)
}
