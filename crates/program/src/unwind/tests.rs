//! Unwind data made by hand, and hostile bytes.

use super::*;
use crate::image::{Architecture, Section};
use crate::reference::Form;
use proptest::prelude::*;

const TEXT: u32 = 0x1000;
const DATA: u32 = 0x2000;
const PDATA: u32 = 0x3000;

/// An image with 0x1000 bytes of code, the given bytes at 0x2000 and .pdata at 0x3000.
pub(crate) fn image(data: &[u8]) -> Image {
    with_entries(data, &[])
}

fn with_entries(data: &[u8], entries: &[(u32, u32, u32)]) -> Image {
    let section = |name: &str, rva, characteristics| Section {
        name: name.into(),
        rva,
        size: 0x1000,
        file_offset: 0,
        file_size: 0,
        characteristics,
    };
    let mut mapped = vec![0; 0x4000];
    mapped[TEXT as usize..DATA as usize].fill(0x90);
    mapped[DATA as usize..][..data.len()].copy_from_slice(data);
    for (i, (begin, end, info)) in entries.iter().enumerate() {
        for (n, value) in [begin, end, info].into_iter().enumerate() {
            let at = PDATA as usize + 12 * i + 4 * n;
            mapped[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    let mut directories = vec![(0, 0); 16];
    directories[3] = (PDATA, 12 * entries.len() as u32);
    Image {
        path: "test".into(),
        architecture: Architecture::X64,
        image_base: 0x1_4000_0000,
        timestamp: 0,
        checksum: 0,
        size_of_image: 0x4000,
        size_of_headers: 0x400,
        section_alignment: 0x1000,
        entry_point: 0,
        characteristics: 0x22,
        dll_characteristics: 0,
        extended_dll_characteristics: 0,
        subsystem: 3,
        directories,
        sections: vec![
            section(".text", TEXT, 0x6000_0020),
            section(".rdata", DATA, 0x4000_0040),
            section(".pdata", PDATA, 0x4000_0040),
        ],
        mapped,
        file_size: 0,
        sha256: [0; 32],
        sha1: [0; 20],
        base_relocations: Vec::new(),
        pdb: None,
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Version 1, the given flags, two codes (push rbx; sub rsp, 0x20).
fn header(flags: u8) -> Vec<u8> {
    vec![1 | (flags << 3), 5, 2, 0, 5, 0x32, 1, 0x30]
}

fn one(data: &[u8], handler: &str) -> UnwindTable {
    let image = with_entries(data, &[(TEXT, TEXT + 0x40, DATA)]);
    read(&image, &|rva| (rva == 0x1800).then(|| handler.to_owned())).unwrap()
}

#[test]
fn plain_codes() {
    let table = one(&header(0), "");
    assert_eq!(table.problems, []);
    assert_eq!(table.objects, [(DATA, 8)]);
    assert_eq!(table.entries[0].size, 8);
    assert_eq!(table.entries[0].handler_data, HandlerData::None);
    assert_eq!(table.references.len(), 3);
}

#[test]
fn odd_number_of_codes_is_padded() {
    let table = one(&[1, 1, 1, 0, 1, 0x30, 0xAA, 0xAA], "");
    assert_eq!(table.objects, [(DATA, 8)]);
}

#[test]
fn chained_entry() {
    let mut data = header(4);
    data.extend(words(&[TEXT, TEXT + 0x20, DATA + 0x100]));
    let table = one(&data, "");
    assert_eq!(table.problems, []);
    assert!(table.entries[0].chained);
    assert_eq!(table.entries[0].size, 20);
    let inner: Vec<_> = table.references.iter().filter(|r| r.site < PDATA).map(|r| (r.site - DATA, r.rva)).collect();
    assert_eq!(inner, [(8, TEXT), (12, TEXT + 0x20), (16, DATA + 0x100)]);
}

#[test]
fn scope_table_names_filters_and_targets() {
    let mut data = header(1);
    data.extend(words(&[0x1800, 3]));
    data.extend(words(&[TEXT, TEXT + 8, 1, TEXT + 0x20]));
    data.extend(words(&[TEXT + 8, TEXT + 16, 0x1900, TEXT + 0x28]));
    data.extend(words(&[TEXT + 16, TEXT + 24, 0x1910, 0]));
    let table = one(&data, "__C_specific_handler");
    assert_eq!(table.problems, []);
    assert_eq!(table.entries[0].handler_data, HandlerData::ScopeTable);
    assert_eq!(table.entries[0].size as usize, data.len());
    let found: Vec<_> = table.code_targets.iter().map(|t| (t.rva, t.kind)).collect();
    use CodeTargetKind::{Cleanup, Filter, LandingPad};
    assert_eq!(found, [(TEXT + 0x20, LandingPad), (TEXT + 0x28, LandingPad), (0x1900, Filter), (0x1910, Cleanup)]);
    // Handler; begin and end of three scopes; targets and filters that are addresses.
    assert_eq!(table.references.iter().filter(|r| r.site < PDATA).count(), 1 + 6 + 1 + 2 + 1);
}

#[test]
fn security_cookie_data_has_two_sizes() {
    let mut data = header(1);
    data.extend(words(&[0x1800, 0x20]));
    assert_eq!(one(&data, "__GSHandlerCheck").entries[0].size, 16);
    let mut data = header(1);
    data.extend(words(&[0x1800, 0x24, 0x10, 0x20]));
    assert_eq!(one(&data, "__GSHandlerCheck").entries[0].size, 24);
}

#[test]
fn unknown_handler_blocks() {
    let mut data = header(1);
    data.extend(words(&[0x1800, 0x20]));
    let table = one(&data, "__some_handler");
    assert_eq!(table.entries[0].handler_data, HandlerData::Unknown);
    assert_eq!(table.problems.len(), 1);
    assert_eq!(table.problems[0].key, "code.unwind.handler_unknown");
}

#[test]
fn itanium_landing_pads_and_types() {
    let mut data = header(1);
    data.extend(words(&[0x1800]));
    let lsda = data.len() as u32;
    // Omitted start, pcrel sdata4 indirect types, udata4 call sites.
    data.extend([0xFF, 0x9B]);
    let types_offset_at = data.len();
    data.push(0);
    data.push(0x01); // uleb128 call sites
    data.extend([8, 0, 8, 0x20, 1, 8, 8, 0, 0]);
    // Action: filter 1, no next; then filter 0 (clean-up).
    data.extend([1, 0]);
    while !data.len().is_multiple_of(4) {
        data.push(0);
    }
    let site = DATA + data.len() as u32;
    data.extend(words(&[(DATA + 0x800).wrapping_sub(site)]));
    data[types_offset_at] = (data.len() - types_offset_at - 1) as u8;
    let table = one(&data, "__gxx_personality_seh0");
    assert_eq!(table.problems, []);
    assert_eq!(table.entries[0].handler_data, HandlerData::ItaniumLsda);
    assert_eq!(table.entries[0].size as usize, data.len(), "LSDA at {lsda}");
    let pads: Vec<_> = table.code_targets.iter().map(|t| t.rva).collect();
    assert_eq!(pads, [TEXT + 0x20]);
    let reference = table.references.iter().find(|r| r.site == site).unwrap();
    assert_eq!((reference.form, reference.origin, reference.rva), (Form::Relative, site, DATA + 0x800));
}

#[test]
fn cxx_frame_handler_3() {
    let mut data = header(3);
    data.extend(words(&[0x1800, DATA + 0x100]));
    data.resize(0x100, 0);
    data.extend(words(&[0x1993_0522, 2, DATA + 0x140, 1, DATA + 0x160, 2, DATA + 0x180, 0x30, 0, 1]));
    data.resize(0x140, 0);
    data.extend(words(&[u32::MAX, 0, 0, 0x1900]));
    data.resize(0x160, 0);
    data.extend(words(&[0, 0, 1, 1, DATA + 0x1A0]));
    data.resize(0x180, 0);
    data.extend(words(&[TEXT, u32::MAX, TEXT + 8, 0]));
    data.resize(0x1A0, 0);
    data.extend(words(&[8, DATA + 0x300, 0x28, 0x1A00, 0x38]));
    let table = one(&data, "__CxxFrameHandler3");
    assert_eq!(table.problems, []);
    assert_eq!(
        table.objects,
        [
            (DATA, 16),
            (DATA + 0x100, 40),
            (DATA + 0x140, 16),
            (DATA + 0x160, 20),
            (DATA + 0x180, 16),
            (DATA + 0x1A0, 20)
        ]
    );
    let found: Vec<_> = table.code_targets.iter().map(|t| (t.rva, t.kind)).collect();
    assert_eq!(found, [(0x1900, CodeTargetKind::Cleanup), (0x1A00, CodeTargetKind::Catch)]);
}

#[test]
fn cxx_frame_handler_4() {
    let mut data = header(3);
    data.extend(words(&[0x1800, DATA + 0x100]));
    data.resize(0x100, 0);
    // Unwind map, try map.
    data.push(0x18);
    data.extend(words(&[DATA + 0x120, DATA + 0x140, DATA + 0x180]));
    data.resize(0x120, 0);
    // Three states: nothing; a destructor with its object at 0x10; a funclet.
    data.push(3 << 1);
    data.push(0);
    data.push((1 | (1 << 2)) << 1);
    data.extend(words(&[0x1A80]));
    data.push(0x10 << 1);
    data.push((3 | (1 << 2)) << 1);
    data.extend(words(&[0x1900]));
    let unwind_end = data.len() as u32;
    data.resize(0x140, 0);
    data.extend([1 << 1, 0, 0, 1 << 1]);
    data.extend(words(&[DATA + 0x160]));
    data.resize(0x160, 0);
    // One handler: adjectives, type, object, one continuation offset.
    data.extend([1 << 1, 0x17, 8 << 1]);
    data.extend(words(&[DATA + 0x300]));
    data.push(0x20 << 1);
    data.extend(words(&[0x1A00]));
    data.push(0x30 << 1);
    let handlers_end = data.len() as u32;
    data.resize(0x180, 0);
    data.extend([2 << 1, 4 << 1, 0, 8 << 1, 1 << 1]);
    let table = one(&data, "__CxxFrameHandler4");
    assert_eq!(table.problems, []);
    assert_eq!(
        table.objects,
        [
            (DATA, 16),
            (DATA + 0x100, 13),
            (DATA + 0x120, unwind_end - 0x120),
            (DATA + 0x140, 8),
            (DATA + 0x160, handlers_end - 0x160),
            (DATA + 0x180, 5)
        ]
    );
    let found: Vec<_> = table.code_targets.iter().map(|t| (t.rva, t.kind)).collect();
    use CodeTargetKind::{Catch, Cleanup, LandingPad};
    assert_eq!(found, [(TEXT + 0x30, LandingPad), (0x1900, Cleanup), (0x1A00, Catch)]);
    assert!(table.references.iter().any(|r| r.rva == 0x1A80));
}

#[test]
fn directory_outside_of_the_image_is_an_error() {
    let mut image = image(&[]);
    image.directories[3] = (0x3FFF, 24);
    let error = read(&image, &|_| None).unwrap_err().to_string();
    assert!(error.contains("exception directory"), "{error}");
}

#[test]
fn shared_data_is_not_read_again_and_again() {
    // Every entry names the same bytes, and every byte is the start of unwind data.
    let entries: Vec<_> = (0..300).map(|i| (TEXT + i, TEXT + i + 1, DATA + 4 * i)).collect();
    let image = with_entries(&[1; 0x1000], &entries);
    read(&image, &|_| Some("__C_specific_handler".into())).unwrap();
}

proptest! {
    #[test]
    fn any_bytes_give_a_result(
        data in proptest::collection::vec(any::<u8>(), 0x200),
        flags in 0u8..8,
        which in 0usize..7,
    ) {
        let names = [
            "__C_specific_handler", "__gxx_personality_seh0", "__CxxFrameHandler3", "__CxxFrameHandler4",
            "__GSHandlerCheck_SEH", "__GSHandlerCheck_EH4", "other",
        ];
        let mut data = data;
        let mut start = header(flags);
        start.extend(words(&[0x1800, DATA + 0x80]));
        data[..start.len()].copy_from_slice(&start);
        // FuncInfo in a shape that gets past the magic number.
        data[0x80..0x84].copy_from_slice(&0x1993_0522u32.to_le_bytes());
        let table = one(&data, names[which]);
        for pair in table.objects.windows(2) {
            prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0);
        }
        for reference in &table.references {
            prop_assert!((reference.rva as usize) < 0x4000);
        }
    }
}
