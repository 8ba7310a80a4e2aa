//! The result of a comparison.

use hotgraft_program::{Entity, FunctionId, ImportId, ObjectId, Program, Target};
use serde::Serialize;

/// What became of a function or object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Equal through the correspondence, wherever it moved.
    Identical,
    /// Matched, and different.
    Changed,
    /// Only in the new image.
    Added,
    /// Only in the old image.
    Removed,
}

/// The rung of the ladder that made a match, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Same decorated name and same module (path of the object file, made comparable).
    NameAndModule,
    /// Same decorated name, unique on both sides.
    Name,
    /// Same name once unstable parts (hashes, numbering) are taken out, unique in its scope.
    CanonicalName,
    /// Same export name or ordinal, entry point, or directory.
    Anchor,
    /// Same normalised body, unique on both sides.
    ExactBody,
    /// The same set of references to named things, unique on both sides.
    NamedReferences,
    /// The same position in an already matched function or object (called from, referred to by).
    Referrer,
    /// Same position among the callers and callees.
    CallGraph,
    /// Same control-flow graph, unique on both sides.
    FlowGraph,
    /// Similarity above the stated threshold, mutual best.
    Similarity,
    /// Same content (constants and strings).
    Content,
}

/// On what evidence two things are the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Match {
    /// The rung.
    pub by: Rung,
    /// Confidence that the match is right, 0 to 1.
    pub score: f32,
}

/// One difference. `key` is stable: `family.thing.change` in dotted lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Stable dotted key, such as `function.instruction.changed`.
    pub key: &'static str,
    /// Where in the old image.
    pub old_rva: Option<u32>,
    /// Where in the new image.
    pub new_rva: Option<u32>,
    /// One sentence for people, references named.
    pub text: String,
}

/// An old and a new function; one of them is `None` for an added or removed one.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionPair {
    /// In the old image.
    pub old: Option<FunctionId>,
    /// In the new image.
    pub new: Option<FunctionId>,
    /// What became of it.
    pub status: Status,
    /// Why the two belong together.
    pub matched: Option<Match>,
    /// Every difference found (the first is the first differing instruction), empty if identical.
    pub changes: Vec<Change>,
}

/// An old and a new object.
#[derive(Clone, Debug, Serialize)]
pub struct ObjectPair {
    /// In the old image.
    pub old: Option<ObjectId>,
    /// In the new image.
    pub new: Option<ObjectId>,
    /// What became of it.
    pub status: Status,
    /// Why the two belong together.
    pub matched: Option<Match>,
    /// Every difference found.
    pub changes: Vec<Change>,
}

/// A difference of the image as a whole: headers, imports, exports, resources, guard tables, sections, modules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageChange {
    /// Stable dotted key, such as `image.export.removed`.
    pub key: &'static str,
    /// What it is about (an export name, a section name, a directory).
    pub subject: String,
    /// One sentence.
    pub text: String,
}

/// The result. Every function and object of either side is in exactly one pair.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// Sorted by old RVA, then the added ones by new RVA.
    pub functions: Vec<FunctionPair>,
    /// Sorted likewise.
    pub objects: Vec<ObjectPair>,
    /// Sorted by key, then subject.
    pub image: Vec<ImageChange>,
    /// For each old function, its position in `functions`.
    pub function_of_old: Vec<u32>,
    /// For each new function, its position in `functions`.
    pub function_of_new: Vec<u32>,
    /// For each old object, its position in `objects`.
    pub object_of_old: Vec<u32>,
    /// For each new object, its position in `objects`.
    pub object_of_new: Vec<u32>,
    /// For each new import, the old import of the same DLL and name.
    pub import_of_new: Vec<Option<ImportId>>,
}

impl Comparison {
    /// The old function that a new one corresponds to.
    pub fn old_function(&self, new: FunctionId) -> Option<FunctionId> {
        self.functions[self.function_of_new[new.index()] as usize].old
    }

    /// The new function that an old one corresponds to.
    pub fn new_function(&self, old: FunctionId) -> Option<FunctionId> {
        self.functions[self.function_of_old[old.index()] as usize].new
    }

    /// The pair a new function is in.
    pub fn pair_of_new(&self, new: FunctionId) -> &FunctionPair {
        &self.functions[self.function_of_new[new.index()] as usize]
    }

    /// The old object that a new one corresponds to.
    pub fn old_object(&self, new: ObjectId) -> Option<ObjectId> {
        self.objects[self.object_of_new[new.index()] as usize].old
    }

    /// The new object that an old one corresponds to.
    pub fn new_object(&self, old: ObjectId) -> Option<ObjectId> {
        self.objects[self.object_of_old[old.index()] as usize].new
    }

    /// The pair a new object is in.
    pub fn object_pair_of_new(&self, new: ObjectId) -> &ObjectPair {
        &self.objects[self.object_of_new[new.index()] as usize]
    }

    /// Where a new target is found in the old image by entity, if it has a counterpart there. Says nothing about equal contents.
    pub fn to_old(&self, target: Target) -> Option<Target> {
        let entity = match target.entity {
            Entity::Function(id) => Entity::Function(self.old_function(id)?),
            Entity::Object(id) => Entity::Object(self.old_object(id)?),
            Entity::Import(id) => Entity::Import(self.import_of_new[id.index()]?),
            Entity::ImageBase => Entity::ImageBase,
            Entity::Fragment(..) | Entity::Unknown => return None,
        };
        Some(Target { entity, addend: target.addend })
    }
}

/// Name of a function for messages: its name, or `sub_RVA`.
pub fn function_label(program: &Program, id: FunctionId) -> String {
    let f = &program.functions[id.index()];
    f.name.clone().unwrap_or_else(|| format!("sub_{:x}", f.rva()))
}
