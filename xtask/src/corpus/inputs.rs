//! Inputs for the programs of the corpus: made from an index, the same every time, about half of them malformed.

mod tiff;
mod xml;

/// Files and arguments for one run.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is, for messages.
    pub name: String,
    /// Files to lay out, by name.
    pub files: Vec<(String, Vec<u8>)>,
    /// The command line.
    pub arguments: Vec<String>,
}

/// Is there a generator for this program?
pub fn knows(program: &str) -> bool {
    matches!(program, "tiffcrop.exe" | "tiffcp.exe" | "raw2tiff.exe" | "tiff2rgba.exe" | "tiffinfo.exe" | "xmllint.exe")
}

/// A program that uses one of these DLLs in much of what it does.
pub fn users_of(images: &[String]) -> &'static [&'static str] {
    let has = |name: &str| images.iter().any(|image| image == name);
    if has("libtiff.dll") {
        &["tiffcp.exe", "tiff2rgba.exe", "tiffinfo.exe"]
    } else if has("libxml2.dll") {
        &["xmllint.exe"]
    } else {
        &[]
    }
}

/// The input number `index` for a program.
pub fn case(program: &str, index: u32) -> Case {
    let mut random = Random::new(index);
    match program {
        "xmllint.exe" => xml::case(index, &mut random),
        "raw2tiff.exe" => tiff::raw(index, &mut random),
        _ => tiff::case(program, index, &mut random),
    }
}

/// Numbers that look random and are the same every time.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u32) -> Self {
        Self((u64::from(seed) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: u32) -> u32 {
        // Xorshift with a multiplication at the end: short and good enough for inputs.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        u32::try_from(high % u64::from(limit)).unwrap_or(0)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(u32::try_from(from.len()).unwrap_or(u32::MAX)) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::case;

    #[test]
    fn inputs_are_the_same_every_time_and_differ_from_one_another() {
        for program in ["xmllint.exe", "tiffcrop.exe", "raw2tiff.exe"] {
            let all: Vec<_> = (0..24).map(|index| case(program, index)).collect();
            for (index, one) in (0..).zip(&all) {
                assert_eq!(one.files, case(program, index).files);
                assert_eq!(one.arguments, case(program, index).arguments);
            }
            let mut files: Vec<_> = all.iter().map(|one| (&one.files, &one.arguments)).collect();
            files.sort();
            files.dedup();
            assert_eq!(files.len(), all.len(), "{program}");
        }
    }
}
