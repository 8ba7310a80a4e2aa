//! Image-relative addresses in what Visual C++ writes for run-time type information and thrown types.
//!
//! The structures carry no base relocations: only their decorated names say where they hold addresses. Layouts (x64):
//! `_RTTICompleteObjectLocator`, `_RTTIClassHierarchyDescriptor`, `_RTTIBaseClassDescriptor` of `rttidata.h` and
//! `_ThrowInfo`, `_CatchableTypeArray`, `_CatchableType` of `ehdata.h`, both of Microsoft's `vcruntime`.

use crate::code::RawReference;
use crate::image::Image;
use crate::object::Object;
use crate::reference::Form;

/// BCD_HASPCHD: a base class descriptor of the extended form ends with its class hierarchy descriptor.
const HAS_HIERARCHY: u32 = 0x40;

/// The image-relative fields of an object, if its name and content say that it is one of the structures. A field of 0
/// leads nowhere.
pub fn references(image: &Image, object: &Object) -> Vec<RawReference> {
    let Some(fields) = object.decorated.as_deref().and_then(|name| fields(image, object, name)) else {
        return Vec::new();
    };
    let held = fields.into_iter().map(|offset| (object.rva + offset, image.u32(object.rva + offset)));
    let mut out = Vec::new();
    for (site, rva) in held {
        match rva {
            Some(0) => {}
            Some(rva) if image.section_at(rva).is_some() => {
                out.push(RawReference { site, width: 4, form: Form::ImageRelative, origin: 0, rva });
            }
            // Not what the name says.
            _ => return Vec::new(),
        }
    }
    out
}

/// Offsets of the fields.
fn fields(image: &Image, object: &Object, name: &str) -> Option<Vec<u32>> {
    let word = |offset: u32| image.u32(object.rva.checked_add(offset)?);
    let fits = |size: u32| (object.size >= size).then_some(());
    let array = |first: u32, count: u32| {
        let end = count.checked_mul(4)?.checked_add(first)?;
        fits(end)?;
        Some((first..end).step_by(4).collect())
    };
    if name.starts_with("??_R4") {
        // Signature 1 is the image-relative form, and its last field is its own address.
        fits(24)?;
        (word(0) == Some(1) && word(20) == Some(object.rva)).then(|| vec![12, 16, 20])
    } else if name.starts_with("??_R3") {
        fits(16)?;
        Some(vec![12])
    } else if name.starts_with("??_R2") {
        // As many as the hierarchy's descriptor says; the array ends with a zero.
        let count = (0..object.size / 4).take_while(|i| word(4 * i).is_some_and(|w| w != 0)).count();
        array(0, u32::try_from(count).ok()?)
    } else if name.starts_with("??_R1") {
        fits(24)?;
        let extended = word(20)? & HAS_HIERARCHY != 0 && object.size >= 28;
        Some(if extended { vec![0, 24] } else { vec![0] })
    } else if name.starts_with("_CTA") {
        array(4, word(0)?)
    } else if name.starts_with("_CT?") {
        fits(28)?;
        Some(vec![4, 24])
    } else if object.is_throw_info() {
        fits(16)?;
        Some(vec![4, 8, 12])
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Extent, ObjectKind};
    use crate::{Evidence, Linkage, unwind};
    use proptest::prelude::*;

    const AT: u32 = 0x2000;

    fn object(name: &str, size: u32) -> Object {
        Object {
            name: None,
            decorated: Some(name.into()),
            rva: AT,
            size,
            extent: Extent::Boundary,
            kind: ObjectKind::Data,
            writable: false,
            zero_fill: false,
            module: None,
            scope: None,
            linkage: Linkage::Global,
            evidence: Evidence::PDB_SYMBOL,
            type_name: None,
            udt: None,
        }
    }

    /// (offset, RVA) of the fields found in a structure made of these words.
    fn found(name: &str, words: &[u32]) -> Vec<(u32, u32)> {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let image = unwind::tests::image(&bytes);
        references(&image, &object(name, bytes.len() as u32)).iter().map(|r| (r.site - AT, r.rva)).collect()
    }

    #[test]
    fn fields_of_each_structure() {
        assert_eq!(found("??_R4A@@6B@", &[1, 0, 0, 0x2100, 0x2200, AT]), [(12, 0x2100), (16, 0x2200), (20, AT)]);
        assert_eq!(found("??_R3A@@8", &[0, 0, 2, 0x2300]), [(12, 0x2300)]);
        assert_eq!(found("??_R2A@@8", &[0x2100, 0x2200, 0, 7]), [(0, 0x2100), (4, 0x2200)]);
        assert_eq!(found("??_R1A@?0A@EA@A@@8", &[0x2100, 0, 0, 0, 0, 0x40, 0x2200]), [(0, 0x2100), (24, 0x2200)]);
        assert_eq!(found("??_R1A@?0A@EA@A@@8", &[0x2100, 0, 0, 0, 0, 0, 0x2200]), [(0, 0x2100)]);
        assert_eq!(found("_TI2?AVA@@", &[0, 0x1010, 0, 0x2100]), [(4, 0x1010), (12, 0x2100)]);
        assert_eq!(found("_TIC1PEAD", &[1, 0, 0, 0x2100]), [(12, 0x2100)]);
        assert_eq!(found("_CTA2?AVA@@", &[2, 0x2100, 0x2200]), [(4, 0x2100), (8, 0x2200)]);
        assert_eq!(found("_CT??_R0?AVA@@@824", &[0, 0x2100, 0, 0, 0, 24, 0x1010]), [(4, 0x2100), (24, 0x1010)]);
    }

    #[test]
    fn what_is_not_as_its_name_says_has_none() {
        // Another form, another's address, an address outside, too few bytes, more elements than there is room for.
        assert_eq!(found("??_R4A@@6B@", &[0, 0, 0, 0x2100, 0x2200, AT]), []);
        assert_eq!(found("??_R4A@@6B@", &[1, 0, 0, 0x2100, 0x2200, AT + 4]), []);
        assert_eq!(found("??_R3A@@8", &[0, 0, 2, 0x9999_0000]), []);
        assert_eq!(found("??_R3A@@8", &[0, 0, 2]), []);
        assert_eq!(found("_CTA2?AVA@@", &[u32::MAX, 0x2100]), []);
        assert_eq!(found("_TIMER", &[0, 0x1010, 0, 0x2100]), []);
        assert_eq!(found("??_R0?AVA@@@8", &[0, 0x2100, 0x2100, 0x2100]), []);
    }

    proptest! {
        #[test]
        fn any_content_gives_fields_inside_the_object(
            name in prop::sample::select(vec!["??_R1x", "??_R2x", "??_R3x", "??_R4x", "_TI1x", "_CTA1x", "_CT?x"]),
            words in prop::collection::vec(prop_oneof![any::<u32>(), 0x1000u32..0x3000, 0u32..4], 0..12),
        ) {
            for (offset, _) in found(name, &words) {
                prop_assert!(offset as usize + 4 <= 4 * words.len());
            }
        }
    }
}
