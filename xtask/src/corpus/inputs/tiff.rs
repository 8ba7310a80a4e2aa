//! TIFF files from nothing: a little-endian header, one or two directories, strips or tiles of samples.

use super::{Case, Random};

const WIDTH: u16 = 256;
const LENGTH: u16 = 257;
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const STRIP_OFFSETS: u16 = 273;
const ORIENTATION: u16 = 274;
const SAMPLES: u16 = 277;
const ROWS_PER_STRIP: u16 = 278;
const STRIP_BYTES: u16 = 279;
const X_RESOLUTION: u16 = 282;
const Y_RESOLUTION: u16 = 283;
const PLANAR: u16 = 284;
const RESOLUTION_UNIT: u16 = 296;
const COLOUR_MAP: u16 = 320;
const TILE_WIDTH: u16 = 322;
const TILE_LENGTH: u16 = 323;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTES: u16 = 325;
const INK_NAMES: u16 = 333;

/// What an image is like.
#[derive(Clone, Copy, Debug)]
struct Shape {
    width: u32,
    length: u32,
    bits: u16,
    samples: u16,
    photometric: u16,
    planar: u16,
    tiled: bool,
    packed: bool,
}

/// A directory entry before it is placed.
enum Value {
    Shorts(Vec<u16>),
    Longs(Vec<u32>),
    Rational(u32, u32),
    Text(Vec<u8>),
}

/// A case for a program that reads TIFF and writes it.
pub fn case(program: &str, index: u32, random: &mut Random) -> Case {
    let shape = shape(index, random);
    let mut bytes = file(&shape, random);
    let harm = if index % 2 == 1 { harm(index / 2, &mut bytes, random) } else { "valid" };
    let arguments: &[&str] = match program {
        "tiffcrop.exe" => CROPS[index as usize % CROPS.len()],
        "tiffcp.exe" => COPIES[index as usize % COPIES.len()],
        "tiff2rgba.exe" => [&["-c", "none"][..], &["-b", "-c", "none"], &["-n", "-c", "packbits"]][index as usize % 3],
        _ => [&["-D"][..], &["-s", "-D"], &["-d"]][index as usize % 3],
    };
    let mut arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
    arguments.push("in.tif".to_owned());
    if program != "tiffinfo.exe" {
        arguments.push("out.tif".to_owned());
    }
    Case { name: format!("{harm} {shape:?}"), files: vec![("in.tif".to_owned(), bytes)], arguments }
}

/// A case for raw2tiff: samples without a head, and a size that fits them or not.
pub fn raw(index: u32, random: &mut Random) -> Case {
    let (width, length, bands) = (8 + random.below(40), 4 + random.below(30), 1 + random.below(4));
    let kinds = ["byte", "short", "long", "sbyte", "sshort", "slong", "float", "double"];
    let kind = kinds[index as usize % kinds.len()];
    let size: u32 = match kind {
        "byte" | "sbyte" => 1,
        "short" | "sshort" => 2,
        "double" => 8,
        _ => 4,
    };
    let total = width * length * bands * size;
    // Half of the files are too short, too long, or do not fit the size that is claimed.
    let (name, bytes, claimed) = match index % 6 {
        1 => ("short file", total / 3, width),
        3 => ("longer file", total + 77, width),
        5 => ("absurd width", total, [0x4000_0000, 0, 0xffff_fff0, 65_537][index as usize / 6 % 4]),
        _ => ("fitting file", total, width),
    };
    let samples = noise(bytes as usize, random);
    let mut arguments: Vec<String> = Vec::new();
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    option("-w", claimed.to_string());
    // Now and then the program is to guess the length.
    if index % 4 != 2 {
        option("-l", length.to_string());
    }
    option("-b", bands.to_string());
    option("-d", kind.to_owned());
    option("-i", ["pixel", "band"][index as usize / 2 % 2].to_owned());
    option("-c", ["none", "packbits", "lzw"][index as usize % 3].to_owned());
    if index % 5 == 4 {
        option("-H", "16".to_owned());
    }
    arguments.extend(["in.raw".to_owned(), "out.tif".to_owned()]);
    Case { name: format!("{name} {width}x{length}x{bands}"), files: vec![("in.raw".to_owned(), samples)], arguments }
}

/// What tiffcrop is asked for.
const CROPS: [&[&str]; 14] = [
    &["-U", "px", "-m", "1,1,1,1"],
    &["-R", "90"],
    &["-R", "180", "-F", "vert"],
    &["-U", "px", "-E", "left", "-X", "12", "-Y", "9"],
    &["-Z", "1:2"],
    &["-Z", "1:3,3:3"],
    &["-S", "2:2"],
    &["-U", "px", "-z", "2,2,10,10:5,5,20,20"],
    &["-I", "both"],
    &["-U", "px", "-E", "bottom", "-m", "2,3,4,5", "-R", "270"],
    &["-e", "combined", "-Z", "1:2,2:2"],
    &["-F", "both", "-c", "packbits"],
    &["-U", "px", "-H", "100", "-V", "100", "-P", "portrait"],
    &["-N", "1", "-c", "none"],
];

/// What tiffcp is asked for.
const COPIES: [&[&str]; 9] = [
    &["-c", "none"],
    &["-c", "packbits"],
    &["-c", "lzw"],
    &["-c", "none", "-p", "separate"],
    &["-c", "none", "-p", "contig"],
    &["-t", "-w", "16", "-l", "16", "-c", "none"],
    &["-s", "-r", "3", "-c", "none"],
    &["-B", "-c", "none"],
    &["-i", "-c", "lzw:2"],
];

fn shape(index: u32, random: &mut Random) -> Shape {
    let (bits, samples, photometric) =
        [(8, 1, 1), (8, 3, 2), (1, 1, 0), (16, 1, 1), (8, 4, 5), (4, 1, 3), (16, 3, 2), (8, 1, 3), (2, 1, 1)]
            [index as usize % 9];
    Shape {
        width: 5 + random.below(60),
        length: 3 + random.below(50),
        bits,
        samples,
        photometric,
        planar: if samples > 1 && random.below(3) == 0 { 2 } else { 1 },
        tiled: random.below(4) == 0,
        packed: random.below(3) == 0,
    }
}

fn noise(length: usize, random: &mut Random) -> Vec<u8> {
    // Runs among the noise, so that compression has something to do.
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let value = random.below(256) as u8;
        let run = if random.below(4) == 0 { 1 + random.below(40) as usize } else { 1 };
        bytes.extend(std::iter::repeat_n(value, run.min(length - bytes.len())));
    }
    bytes
}

fn file(shape: &Shape, random: &mut Random) -> Vec<u8> {
    let mut bytes = b"II*\0\0\0\0\0".to_vec();
    let (across, down) = if shape.tiled { (16, 16) } else { (shape.width, 7.min(shape.length)) };
    let per_plane = shape.length.div_ceil(down) * if shape.tiled { shape.width.div_ceil(across) } else { 1 };
    let planes = if shape.planar == 2 { shape.samples } else { 1 };
    let in_plane = if shape.planar == 2 { 1 } else { u32::from(shape.samples) };
    let row = (across * in_plane * u32::from(shape.bits)).div_ceil(8);
    let (mut offsets, mut counts) = (Vec::new(), Vec::new());
    for chunk in 0..per_plane * u32::from(planes) {
        let rows = if shape.tiled { down } else { down.min(shape.length - chunk % per_plane * down) };
        let samples = noise((row * rows) as usize, random);
        let stored = if shape.packed { pack(&samples, row as usize) } else { samples };
        offsets.push(long(bytes.len()));
        counts.push(long(stored.len()));
        bytes.extend(stored);
    }
    let mut entries = vec![
        (WIDTH, Value::Longs(vec![shape.width])),
        (LENGTH, Value::Longs(vec![shape.length])),
        (BITS, Value::Shorts(vec![shape.bits; usize::from(shape.samples)])),
        (COMPRESSION, Value::Shorts(vec![if shape.packed { 32_773 } else { 1 }])),
        (PHOTOMETRIC, Value::Shorts(vec![shape.photometric])),
        (ORIENTATION, Value::Shorts(vec![1])),
        (SAMPLES, Value::Shorts(vec![shape.samples])),
        (X_RESOLUTION, Value::Rational(72, 1)),
        (Y_RESOLUTION, Value::Rational(72, 1)),
        (PLANAR, Value::Shorts(vec![shape.planar])),
        (RESOLUTION_UNIT, Value::Shorts(vec![2])),
    ];
    if shape.tiled {
        entries.extend([(TILE_WIDTH, Value::Longs(vec![across])), (TILE_LENGTH, Value::Longs(vec![down]))]);
        entries.extend([(TILE_OFFSETS, Value::Longs(offsets)), (TILE_BYTES, Value::Longs(counts))]);
    } else {
        entries.push((ROWS_PER_STRIP, Value::Longs(vec![down])));
        entries.extend([(STRIP_OFFSETS, Value::Longs(offsets)), (STRIP_BYTES, Value::Longs(counts))]);
    }
    if shape.photometric == 3 {
        let entries_of_map = 3 << shape.bits;
        let map = (0..entries_of_map).map(|at: u32| (at.wrapping_mul(7919) & 0xffff) as u16).collect();
        entries.push((COLOUR_MAP, Value::Shorts(map)));
    }
    if shape.photometric == 5 {
        entries.push((INK_NAMES, Value::Text(b"cyan\0magenta\0yellow\0black\0".to_vec())));
    }
    entries.sort_by_key(|(tag, _)| *tag);
    directory(&mut bytes, &entries);
    bytes
}

/// A length or offset as TIFF stores it; the files made here are small.
fn long(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Appends the directory and its values, and lets the header point to it.
fn directory(bytes: &mut Vec<u8>, entries: &[(u16, Value)]) {
    let mut placed = Vec::new();
    for (tag, value) in entries {
        let (kind, count, data): (u16, usize, Vec<u8>) = match value {
            Value::Shorts(list) => (3, list.len(), list.iter().flat_map(|one| one.to_le_bytes()).collect()),
            Value::Longs(list) => (4, list.len(), list.iter().flat_map(|one| one.to_le_bytes()).collect()),
            Value::Rational(over, under) => (5, 1, [over.to_le_bytes(), under.to_le_bytes()].concat()),
            Value::Text(text) => (2, text.len(), text.clone()),
        };
        let field = if data.len() <= 4 {
            let mut field = [0; 4];
            field[..data.len()].copy_from_slice(&data);
            field
        } else {
            if bytes.len() % 2 == 1 {
                bytes.push(0);
            }
            let at = long(bytes.len());
            bytes.extend(&data);
            at.to_le_bytes()
        };
        placed.push((*tag, kind, long(count), field));
    }
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    let at = long(bytes.len());
    bytes[4..8].copy_from_slice(&at.to_le_bytes());
    bytes.extend(u16::try_from(placed.len()).unwrap_or(u16::MAX).to_le_bytes());
    for (tag, kind, count, field) in placed {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(field);
    }
    bytes.extend([0; 4]);
}

/// PackBits, each row for itself.
fn pack(samples: &[u8], row: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for line in samples.chunks(row.max(1)) {
        let mut at = 0;
        while at < line.len() {
            let run = line[at..].iter().take(128).take_while(|byte| **byte == line[at]).count();
            if run > 1 {
                out.extend([(257 - run) as u8, line[at]]);
                at += run;
            } else {
                out.extend([0, line[at]]);
                at += 1;
            }
        }
    }
    out
}

/// Damages a file; returns how.
fn harm(kind: u32, bytes: &mut Vec<u8>, random: &mut Random) -> &'static str {
    let directory = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
    let entries = usize::from(u16::from_le_bytes([bytes[directory], bytes[directory + 1]]));
    let entry = |bytes: &[u8], tag: u16| {
        (0..entries).map(|at| directory + 2 + at * 12).find(|at| bytes[*at..*at + 2] == tag.to_le_bytes())
    };
    let mut set = |tag: u16, field: usize, value: u32| {
        if let Some(at) = entry(bytes, tag) {
            bytes[at + field..at + field + 4].copy_from_slice(&value.to_le_bytes());
        }
    };
    // Fields of an entry: its count is at 4, its value or offset at 8.
    match kind % 12 {
        0 => {
            let keep = bytes.len() / 2;
            let tail = bytes.split_off(directory.max(keep));
            // The samples lose their end, the directory stays.
            bytes.truncate(directory);
            bytes.extend(tail);
            bytes.truncate(bytes.len() - 20);
            "truncated"
        }
        1 => {
            set(WIDTH, 8, 0);
            "no width"
        }
        2 => {
            set(LENGTH, 8, 100_000);
            "more rows than samples"
        }
        3 => {
            set(STRIP_OFFSETS, 8, 0x7fff_fff0);
            set(TILE_OFFSETS, 8, 0x7fff_fff0);
            "offsets behind the end"
        }
        4 => {
            set(SAMPLES, 8, 60_000);
            "absurd samples per pixel"
        }
        5 => {
            set(BITS, 8, 5);
            "odd bits per sample"
        }
        6 => {
            set(COMPRESSION, 8, 5);
            "samples that are no LZW"
        }
        7 => {
            set(STRIP_BYTES, 4, 1);
            set(TILE_BYTES, 4, 1);
            "too few byte counts"
        }
        8 => {
            set(INK_NAMES, 4, 3);
            set(X_RESOLUTION, 8, 0xffff_fff0);
            "a value behind the end"
        }
        9 => {
            set(PLANAR, 8, 2);
            "planes that are not there"
        }
        10 => {
            set(ROWS_PER_STRIP, 8, 0xffff_ffff);
            set(PHOTOMETRIC, 8, 6);
            "another colour space"
        }
        _ => {
            for _ in 0..12 {
                let at = 8 + random.below(long(bytes.len() - 8)) as usize;
                bytes[at] = random.below(256) as u8;
            }
            "bytes scattered"
        }
    }
}
