//! Comparing one range of code and its unwind data.

use crate::data::{first_difference, held_address};
use crate::reencoded;
use crate::walk::{Context, Found};
use hotgraft_program::{CodeRange, FunctionId, HandlerData, Program, SpanKind, UnwindInfo};

/// Compare the code at `va` in patched memory with a range of a new function.
pub(crate) fn compare(context: &Context<'_>, va: u64, id: FunctionId, number: u16) -> Found {
    let mut found = Found::default();
    let new = context.new;
    let range = context.range(id, number);
    let subject = context.label(id);
    let (Some(ours), Some(theirs)) =
        (context.world.bytes(va, range.size), new.image.bytes(range.rva, range.size as usize))
    else {
        found.remain("residual.code", subject, range.rva, format!("{va:#x} is not {} bytes of an image", range.size));
        return found;
    };
    let references = new.references_in(range.rva, range.end());
    let places = match first_difference(ours, theirs, range.rva, references) {
        None => {
            for reference in references {
                let outcome = match held_address(context, reference, va, range.rva) {
                    Some(held) => context.relate(held, reference.target, reference.form, &mut found),
                    None => Err("the field lies outside of both images".to_owned()),
                };
                if let Err(why) = outcome {
                    let text = format!("field at +{:#x}: {why}", reference.site - range.rva);
                    found.remain("residual.reference", subject.clone(), reference.site, text);
                }
            }
            None
        }
        Some(offset) => match reencoded::compare(context, va, id, number, &mut found) {
            Ok(places) => Some(places),
            Err(why) => {
                let text = format!("code at {va:#x} differs at +{offset:#x}: {why}");
                found.remain("residual.code", subject, range.rva + offset, text);
                return found;
            }
        },
    };
    for site in unaccounted(new, range) {
        let text = "an instruction holds an address that no reference accounts for".to_owned();
        found.remain("residual.unaccounted", subject.clone(), site, text);
    }
    compare_unwind(context, va, range, places.as_deref(), &subject, &mut found);
    found
}

/// True if the code at `va` is that of a new range but for the fields that hold addresses.
pub(crate) fn is_plain_copy(context: &Context<'_>, va: u64, id: FunctionId, number: u16) -> bool {
    let range = context.range(id, number);
    let references = context.new.references_in(range.rva, range.end());
    match (context.world.bytes(va, range.size), context.new.image.bytes(range.rva, range.size as usize)) {
        (Some(ours), Some(theirs)) => first_difference(ours, theirs, range.rva, references).is_none(),
        _ => false,
    }
}

/// Where the instructions of a new range are in the code at `va`; `None` if it is a plain copy (or differs, which is reported
/// where the pair itself is compared).
pub(crate) fn places(context: &Context<'_>, va: u64, id: FunctionId, number: u16) -> Option<reencoded::Places> {
    let range = context.range(id, number);
    let ours = context.world.bytes(va, range.size);
    let theirs = context.new.image.bytes(range.rva, range.size as usize)?;
    let references = context.new.references_in(range.rva, range.end());
    match ours {
        Some(ours) if first_difference(ours, theirs, range.rva, references).is_none() => None,
        // What is found on the way is found again when the pair itself is compared.
        _ => reencoded::compare(context, va, id, number, &mut Found { shallow: true, ..Found::default() }).ok(),
    }
}

/// Sites of address-bearing fields that lead out of the range and are in no reference, found by decoding.
fn unaccounted(program: &Program, range: CodeRange) -> Vec<u32> {
    let mut sites = Vec::new();
    let references = program.references_in(range.rva, range.end());
    let first = program.spans.partition_point(|s| s.rva.saturating_add(s.size) <= range.rva);
    for span in program.spans[first..].iter().take_while(|s| s.rva < range.end()) {
        if span.kind != SpanKind::Code {
            continue;
        }
        let (start, end) = (span.rva.max(range.rva), span.rva.saturating_add(span.size).min(range.end()));
        let mut rva = start;
        while rva < end {
            let Some(bytes) = program.image.bytes(rva, (end - rva) as usize) else { break };
            let Some(decoded) = hotgraft_program::code::decode_at(bytes, rva) else {
                sites.push(rva);
                break;
            };
            if let Some(raw) = decoded.reference(rva)
                && !range.contains(raw.rva)
                && references.binary_search_by_key(&raw.site, |r| r.site).is_err()
            {
                sites.push(raw.site);
            }
            rva += u32::from(decoded.length);
        }
    }
    sites
}

fn covering(program: &Program, start: u32, end: u32) -> &[UnwindInfo] {
    let a = program.unwind.partition_point(|u| u.end <= start);
    let b = program.unwind.partition_point(|u| u.begin < end);
    &program.unwind[a..b.max(a)]
}

/// The unwind entries of a range, by position in the range, must say the same.
fn compare_unwind(
    context: &Context<'_>,
    va: u64,
    range: CodeRange,
    places: Option<&[(u32, u32)]>,
    subject: &str,
    found: &mut Found,
) {
    let Some((program, rva)) = context.world.program_at(va) else { return };
    let size = places.and_then(|p| p.last()).map_or(range.size, |p| p.1);
    let theirs = covering(context.new, range.rva, range.end());
    let ours = covering(program, rva, rva.saturating_add(size));
    if ours.len() != theirs.len() {
        let text = format!("{} unwind entries at {va:#x}, new has {}", ours.len(), theirs.len());
        found.remain("residual.unwind", subject.to_owned(), range.rva, text);
        return;
    }
    for (our, their) in ours.iter().zip(theirs) {
        let unwind = Unwind { context, va, rva, range, places, our, their };
        if let Err(text) = unwind.compare(found) {
            found.remain("residual.unwind", subject.to_owned(), their.begin, text);
        }
    }
}

/// One unwind entry of patched memory against one of the new image.
struct Unwind<'a, 'c> {
    context: &'a Context<'c>,
    /// The code range in patched memory: address and RVA in its image.
    va: u64,
    rva: u32,
    /// The code range in the new image.
    range: CodeRange,
    places: Option<&'a [(u32, u32)]>,
    our: &'a UnwindInfo,
    their: &'a UnwindInfo,
}

impl Unwind<'_, '_> {
    /// RVA in patched memory's image of a place in the new range.
    fn moved(&self, rva: u32) -> Option<u32> {
        let offset = rva.checked_sub(self.range.rva)?;
        Some(self.rva + self.places.map_or(Some(offset), |p| reencoded::find(p, offset))?)
    }

    fn compare(&self, found: &mut Found) -> Result<(), String> {
        let (our, their, context) = (self.our, self.their, self.context);
        if self.moved(their.begin) != Some(our.begin) || self.moved(their.end) != Some(our.end) {
            return Err(format!("unwind entry covers {:#x} to {:#x} of the patched image", our.begin, our.end));
        }
        let image = self.va - u64::from(self.rva);
        let info = image + u64::from(our.info);
        let ours = context.world.bytes(info, their.size).ok_or("unwind information lies outside of the image")?;
        let theirs = context.new.image.bytes(their.info, their.size as usize).ok_or("unwind information is cut")?;
        let theirs = self.relocated(theirs)?;
        if let Some(offset) = first_difference(ours, &theirs, their.info, &their.references) {
            return Err(format!("unwind information differs at +{offset:#x}"));
        }
        for reference in &their.references {
            let held = held_address(context, reference, info, their.info).ok_or("a field lies outside of the image")?;
            let said = |why: String| format!("unwind field at +{:#x}: {why}", reference.site - their.info);
            // Places in the own range, its end included: that address may belong to whatever follows.
            if (self.range.rva..=self.range.end()).contains(&reference.rva) && reference.rva != self.range.rva {
                if self.moved(reference.rva).map(|rva| image + u64::from(rva)) != Some(held) {
                    return Err(said(format!("{held:#x} is not the place of new RVA {:#x}", reference.rva)));
                }
                continue;
            }
            context.relate_called(held, reference.target, reference.form, found).map_err(said)?;
        }
        Ok(())
    }

    /// The new image's unwind information with the offsets of prologue instructions as they are in the patch.
    fn relocated(&self, theirs: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = theirs.to_vec();
        if self.places.is_none() {
            return Ok(out);
        }
        let known =
            matches!(self.their.handler_data, HandlerData::None | HandlerData::GsCheck | HandlerData::ScopeTable);
        let version = theirs.first().map_or(0, |b| b & 7);
        if version != 1 || !known {
            return Err("unwind information counts from code that was re-encoded".to_owned());
        }
        let begin = self.moved(self.their.begin).ok_or("the entry begins inside of an instruction")?;
        let shifted = |offset: u8| -> Result<u8, String> {
            let rva =
                self.moved(self.their.begin + u32::from(offset)).ok_or("a prologue place inside of an instruction")?;
            u8::try_from(rva - begin).map_err(|_| "the prologue is too long".to_owned())
        };
        out[1] = shifted(theirs[1])?;
        let count = usize::from(theirs[2]);
        let mut i = 0;
        while i < count {
            let at = 4 + 2 * i;
            let [offset, op] = *theirs.get(at..at + 2).ok_or("unwind codes are cut")? else {
                return Err("unwind codes are cut".to_owned());
            };
            out[at] = shifted(offset)?;
            i += match (op & 15, op >> 4) {
                (0 | 2 | 3 | 10, _) => 1,
                (1, 0) | (4 | 8, _) => 2,
                (1, 1) | (5 | 9, _) => 3,
                _ => return Err(format!("unknown unwind operation {op:#x}")),
            };
        }
        Ok(out)
    }
}
