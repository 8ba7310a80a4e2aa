//! From a plan to the bytes of a hotpatch image.
//!
//! Steps, each in a module of its own: [`pieces`] takes code and data over from the new image and turns every address
//! in them into a `pieces::Field`; [`unwind`] adds unwind data; [`layout`] gives everything a position;
//! [`fields`] writes each field for that position; [`tables`] and [`guard`] say what the base must do and be; [`pe`] is
//! the file around it all.
//!
//! Nothing is judged here: the plan has resolved every reference. What is checked is that nothing is lost: every byte
//! of the patch's code and data is either copied or a field, every base relocation of a copied byte has a field, and
//! every field holds in the new image what its reference says.

pub mod fields;
pub mod guard;
pub mod hooks;
pub mod layout;
pub mod liveness;
pub mod pe;
pub mod pieces;
pub mod reencode;
pub mod slots;
pub mod tables;
pub mod unwind;
pub mod x64;

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::verdict::{Options, Reach};
use hotgraft_diff::comparison::Comparison;
use hotgraft_program::{Architecture, Program};

/// Everything that emission needs to look at.
pub(crate) struct Input<'a> {
    pub(crate) old: &'a Program,
    pub(crate) new: &'a Program,
    pub(crate) plan: &'a Plan,
    pub(crate) options: &'a Options,
}

/// Writes the hotpatch image.
///
/// The way in which the patch reaches the base is `options.reach`; without one, slots are used if the code of every
/// planned function can be re-encoded for them, else near references.
///
/// # Errors
/// [`Error::Refused`] if something of the plan has no encoding in a patch image, and [`Error::Internal`] if the plan
/// and the programs contradict each other. In both cases nothing is to be emitted.
pub fn emit(old: &Program, new: &Program, _: &Comparison, plan: &Plan, options: &Options) -> Result<Vec<u8>> {
    for program in [old, new] {
        if program.image.architecture != Architecture::X64 {
            return Err(refused("image.machine", "only x64 images can be patched so far"));
        }
    }
    let input = Input { old, new, plan, options };
    match options.reach {
        Some(reach) => write(&input, reach),
        None => match write(&input, Reach::Any) {
            Err(Error::Refused { .. }) => write(&input, Reach::Near),
            done => done,
        },
    }
}

fn write(input: &Input<'_>, reach: Reach) -> Result<Vec<u8>> {
    let mut parts = pieces::collect(input)?;
    if reach == Reach::Any {
        slots::reencode(input, &mut parts)?;
    }
    let layout = layout::place(input, &parts)?;
    let image = tables::assemble(input, &parts, &layout)?;
    if let Some(violation) = hotgraft_hotpatch::check::check(&image).first() {
        return Err(internal(format!("the image breaks {}: {}", violation.rule, violation.text)));
    }
    let structure = hotgraft_hotpatch::read(&image)?.structure();
    if reach == Reach::Any && structure != hotgraft_hotpatch::Structure::Windows {
        return Err(internal("near references are left in an image that uses slots"));
    }
    Ok(image)
}

pub(crate) fn internal(text: impl Into<String>) -> Error {
    Error::Internal(text.into())
}

pub(crate) fn refused(key: &'static str, text: impl Into<String>) -> Error {
    Error::Refused { key, text: text.into() }
}
