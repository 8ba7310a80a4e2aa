//! What every rule sees: both programs, their comparison, who uses what; and how things are named in messages.

use crate::resolve::is_trusted_function;
use crate::uses::{User, Uses};
use crate::verdict::{Difference, Finding, Options, Outcome};
use hotgraft_diff::comparison::{Comparison, FunctionPair, ObjectPair, Status, function_label};
use hotgraft_program::{FunctionId, ObjectId, Program, Target};

/// The input of all rules.
pub struct Context<'a> {
    /// The base.
    pub old: &'a Program,
    /// Where new code comes from.
    pub new: &'a Program,
    /// How the two belong together.
    pub cmp: &'a Comparison,
    /// What the caller asked for.
    pub options: &'a Options,
    /// Uses within the old image.
    pub old_uses: Uses,
    /// Uses within the new image.
    pub new_uses: Uses,
}

impl<'a> Context<'a> {
    /// Indexes both programs.
    pub fn new(old: &'a Program, new: &'a Program, cmp: &'a Comparison, options: &'a Options) -> Self {
        let (old_uses, new_uses) = rayon::join(|| Uses::new(old), || Uses::new(new));
        Self { old, new, cmp, options, old_uses, new_uses }
    }

    /// The pair a new function is in, with its position as a difference.
    pub fn function_pair(&self, new: FunctionId) -> (&'a FunctionPair, Difference) {
        let i = self.cmp.function_of_new[new.index()];
        (&self.cmp.functions[i as usize], Difference::Function(i))
    }

    /// The pair a new object is in, with its position as a difference.
    pub fn object_pair(&self, new: ObjectId) -> (&'a ObjectPair, Difference) {
        let i = self.cmp.object_of_new[new.index()];
        (&self.cmp.objects[i as usize], Difference::Object(i))
    }

    /// The base function that `new` is a version of. A pair that differs and rests on weak evidence counts as one function
    /// gone and another one come: nothing is redirected on a guess.
    pub fn counterpart(&self, new: FunctionId) -> Option<FunctionId> {
        let pair = self.function_pair(new).0;
        if pair.status == Status::Changed && !is_trusted_function(pair.matched) { None } else { pair.old }
    }

    /// True for a function that, by the unwind data of either side, runs on the frame of another one: a filter, a clean-up
    /// or a catch block.
    pub fn is_funclet(&self, new: FunctionId) -> bool {
        let owned = |program: &Program, id: FunctionId| !program.functions[id.index()].funclet_of.is_empty();
        owned(self.new, new) || self.function_pair(new).0.old.is_some_and(|old| owned(self.old, old))
    }

    /// `name (old 0x1000+0x20, new 0x1010+0x28)`.
    pub fn function_subject(&self, old: Option<FunctionId>, new: Option<FunctionId>) -> String {
        let name = match (new, old) {
            (Some(id), _) => function_label(self.new, id),
            (None, Some(id)) => function_label(self.old, id),
            (None, None) => String::from("function"),
        };
        let old = old.map(|id| {
            let f = &self.old.functions[id.index()];
            (f.rva(), f.size())
        });
        let new = new.map(|id| {
            let f = &self.new.functions[id.index()];
            (f.rva(), f.size())
        });
        with_places(&name, old, new)
    }

    /// Likewise for an object.
    pub fn object_subject(&self, old: Option<ObjectId>, new: Option<ObjectId>) -> String {
        let name = match (new, old) {
            (Some(id), _) => object_label(self.new, id),
            (None, Some(id)) => object_label(self.old, id),
            (None, None) => String::from("object"),
        };
        let old = old.map(|id| (self.old.objects[id.index()].rva, self.old.objects[id.index()].size));
        let new = new.map(|id| (self.new.objects[id.index()].rva, self.new.objects[id.index()].size));
        with_places(&name, old, new)
    }

    /// `file:line` of a function, of the new image where it has one.
    pub fn function_source(&self, old: Option<FunctionId>, new: Option<FunctionId>) -> Option<String> {
        let line = match (new, old) {
            (Some(id), _) => self.new.source_line(self.new.functions[id.index()].rva()),
            (None, Some(id)) => self.old.source_line(self.old.functions[id.index()].rva()),
            (None, None) => None,
        };
        line.map(|l| format!("{}:{}", l.file, l.line))
    }

    /// The name of a user in messages.
    pub fn user_label(program: &Program, user: User) -> String {
        match user {
            User::Function(id) => function_label(program, id),
            User::Object(id) => object_label(program, id),
            User::Nobody => String::from("unattributed bytes"),
        }
    }

    /// The pair that holds a user of the new image.
    pub fn about_new(&self, user: User) -> Option<Difference> {
        match user {
            User::Function(id) => Some(Difference::Function(self.cmp.function_of_new[id.index()])),
            User::Object(id) => Some(Difference::Object(self.cmp.object_of_new[id.index()])),
            User::Nobody => None,
        }
    }

    /// Text of a target for messages.
    pub fn target_label(program: &Program, target: Target) -> String {
        use hotgraft_program::Entity;
        let name = match target.entity {
            Entity::Function(id) => function_label(program, id),
            Entity::Fragment(id, n) => format!("{} (part {n})", function_label(program, id)),
            Entity::Object(id) => object_label(program, id),
            Entity::Import(id) => {
                let import = &program.imports[id.index()];
                format!("{}!{}", import.dll, import.name)
            }
            Entity::ImageBase => String::from("__ImageBase"),
            Entity::Unknown => return format!("unknown address {:#x}", target.addend),
        };
        match target.addend {
            0 => name,
            n if n > 0 => format!("{name}+{n:#x}"),
            n => format!("{name}-{:#x}", n.unsigned_abs()),
        }
    }

    /// True if the function's address leaves the image by another way than references: exports, entry point, guard
    /// tables, TLS callbacks.
    pub fn is_reachable_from_outside(program: &Program, id: FunctionId) -> bool {
        use hotgraft_program::Evidence;
        let outside = Evidence::EXPORT | Evidence::ENTRY_POINT | Evidence::GUARD_TABLE;
        program.functions[id.index()].evidence.intersects(outside)
    }
}

/// Name of an object for messages.
pub fn object_label(program: &Program, id: ObjectId) -> String {
    let o = &program.objects[id.index()];
    if let Some(name) = &o.name {
        return name.clone();
    }
    if o.kind == hotgraft_program::ObjectKind::String
        && let Some(bytes) = program.image.bytes(o.rva, o.size as usize)
    {
        let text: String = String::from_utf8_lossy(bytes).trim_end_matches('\0').chars().take(40).collect();
        return format!("{text:?}");
    }
    format!("data_{:x}", o.rva)
}

fn with_places(name: &str, old: Option<(u32, u32)>, new: Option<(u32, u32)>) -> String {
    use std::fmt::Write as _;
    let mut out = format!("{name} (");
    if let Some((rva, size)) = old {
        let _ = write!(out, "old {rva:#x}+{size:#x}");
    }
    if let Some((rva, size)) = new {
        let comma = if old.is_some() { ", " } else { "" };
        let _ = write!(out, "{comma}new {rva:#x}+{size:#x}");
    }
    out.push(')');
    out
}

/// A finding with the evidence first, then the rule's why and what to do.
pub fn finding(
    key: &'static str,
    outcome: Outcome,
    about: Option<Difference>,
    subject: String,
    evidence: &str,
    source: Option<String>,
) -> Finding {
    let text = match crate::rules::explain(key) {
        Some(rule) => {
            [evidence, rule.why, rule.todo].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join(" ")
        }
        None => evidence.to_owned(),
    };
    Finding { key, outcome, subject, text, source, about, covers: Vec::new() }
}
