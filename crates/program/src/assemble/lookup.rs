//! What lies at an address, found by page. There are as many look-ups as there are references, and a search by halves over
//! all functions and objects misses the processor's caches at nearly every step.

use crate::entity::{FunctionId, ObjectId};
use crate::program::Program;

/// Bytes of a page, as a power of two.
const PAGE: u32 = 7;

/// For each page, how many of some sorted addresses lie before it.
struct Pages(Vec<u32>);

impl Pages {
    fn new(image_size: u32, starts: impl Iterator<Item = u32>) -> Self {
        let mut pages = Vec::with_capacity((image_size >> PAGE) as usize + 2);
        let mut count = 0;
        for start in starts {
            while pages.len() <= (start >> PAGE) as usize {
                pages.push(count);
            }
            count += 1;
        }
        pages.push(count);
        Pages(pages)
    }

    /// Positions among which the first start behind `rva` is, the last included.
    fn around(&self, rva: u32) -> (usize, usize) {
        let last = self.0.len() - 1;
        let page = ((rva >> PAGE) as usize).min(last);
        (self.0[page] as usize, self.0[(page + 1).min(last)] as usize)
    }
}

/// The pages of one program.
pub struct Lookup {
    ranges: Pages,
    objects: Pages,
}

impl Lookup {
    /// Takes the ranges and objects of a program, which must not change any more.
    pub fn new(program: &Program) -> Self {
        let size = program.image.size_of_image;
        Lookup {
            ranges: Pages::new(size, program.ranges.iter().map(|r| r.0)),
            objects: Pages::new(size, program.objects.iter().map(|o| o.rva)),
        }
    }

    /// As [`Program::function_at`].
    pub fn function_at(&self, program: &Program, rva: u32) -> Option<(FunctionId, u16)> {
        let (first, last) = self.ranges.around(rva);
        let i = first + program.ranges[first..last].partition_point(|r| r.0 <= rva);
        let (_, id, n) = program.ranges[i.checked_sub(1)?];
        program.functions[id.index()].ranges[n as usize].contains(rva).then_some((id, n))
    }

    /// The first object behind `rva`, as a position among all.
    pub fn object_behind(&self, program: &Program, rva: u32) -> usize {
        let (first, last) = self.objects.around(rva);
        first + program.objects[first..last].partition_point(|o| o.rva <= rva)
    }

    /// As [`Program::object_at`].
    pub fn object_at(&self, program: &Program, rva: u32) -> Option<ObjectId> {
        let i = self.object_behind(program, rva).checked_sub(1)?;
        program.objects[i].contains(rva).then(|| ObjectId::from(i))
    }
}
