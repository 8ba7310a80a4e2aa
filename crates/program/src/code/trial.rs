//! Would an address be code of the function? For entries of tables whose end is not proven.
//!
//! Entries are tried in their order, and what one leads to counts for the next. The entries of a table come before
//! whatever follows it, so that by the time something else is read as an entry, the code that it would cut is known.

use super::descent::Descent;
use super::{Flow, x64};
use crate::image::Image;
use std::collections::BTreeMap;

/// An entry that leads to so many instructions without a contradiction is believed.
const ENOUGH: usize = 256;

/// The code that accepted addresses lead to, beyond what is known.
pub(super) struct Trial<'a> {
    image: &'a Image,
    known: &'a Descent<'a>,
    /// Instructions: first byte, first byte behind.
    taken: BTreeMap<u32, u32>,
}

impl<'a> Trial<'a> {
    pub(super) fn new(image: &'a Image, known: &'a Descent<'a>) -> Self {
        Self { image, known, taken: BTreeMap::new() }
    }

    /// True if control that comes to `target` runs through whole instructions of the function only, in accord with all
    /// that is known and was accepted.
    pub(super) fn accepts(&mut self, target: u32) -> bool {
        let mut new = BTreeMap::new();
        let mut work = vec![target];
        while let Some(rva) = work.pop() {
            if self.known.step_at(rva).is_some() || self.taken.contains_key(&rva) || new.contains_key(&rva) {
                continue;
            }
            if new.len() >= ENOUGH {
                break;
            }
            let Some((end, flow)) = self.instruction(rva, &new) else { return false };
            new.insert(rva, end);
            match flow {
                // What nobody writes: a breakpoint, which is filler.
                Flow::Breakpoint => return false,
                Flow::Branch(to) if self.known.contains(to) => work.push(to),
                Flow::ConditionalBranch(to) => {
                    if self.known.contains(to) {
                        work.push(to);
                    }
                    work.push(end);
                }
                // A call may be the last thing that a function does.
                Flow::Call(_) | Flow::IndirectCall if !self.known.contains(end) => {}
                Flow::Next | Flow::Call(_) | Flow::IndirectCall => work.push(end),
                Flow::Branch(_) | Flow::IndirectJump | Flow::Return | Flow::Trap => {}
            }
        }
        self.taken.append(&mut new);
        true
    }

    /// First byte behind the instruction at `rva`, and where it leads; `None` if none can be there.
    fn instruction(&self, rva: u32, new: &BTreeMap<u32, u32>) -> Option<(u32, Flow)> {
        const LONGEST: u32 = 15;
        if !self.known.may_start(rva) {
            return None;
        }
        let bytes = (1..=LONGEST).rev().find_map(|n| self.image.bytes(rva, n as usize))?;
        let decoded = x64::decode(bytes, rva)?;
        let end = rva + u32::from(decoded.length);
        let cuts = |all: &BTreeMap<u32, u32>| all.range(..end).next_back().is_some_and(|(_, &behind)| behind > rva);
        let inside = (rva + 1..end).all(|at| self.known.may_start(at) && self.known.step_at(at).is_none());
        (inside && !cuts(&self.taken) && !cuts(new)).then_some((end, decoded.flow))
    }
}
