//! PNG files: damage to the lengths, CRCs, order and texts of chunks, with or without corrected
//! CRCs.

use super::Allowed;
use super::bytes::{self, Rng};
use png::text_metadata::{EncodableTextChunk, ZTXtChunk};
use std::sync::LazyLock;
use zimage::{Image, Info};

/// A compressed text that inflates to 64 MB.
static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut text = ZTXtChunk::new("parameters", "a".repeat(64 << 20));
    text.compress_text().unwrap();
    let mut chunk = Vec::new();
    text.encode(&mut chunk).unwrap();
    chunk[8..chunk.len() - 4].to_vec()
});

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let info = Info { prompt: "ein größerer Fuchs".into(), steps: 8, width: 24, height: 16, ..Info::default() };
    let pixels = (0..24 * 16 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let file = Image { width: 24, height: 16, pixels, info }.to_png().unwrap();
    let mut chunks = chunks(&file);
    let mut text = ZTXtChunk::new("Description", "a cat, a dog");
    text.compress_text().unwrap();
    let mut compressed = Vec::new();
    text.encode(&mut compressed).unwrap();
    let foreign: [(&[u8; 4], &[u8]); 6] = [
        (b"tEXt", b"prompt\0{\"3\": {\"class_type\": \"KSampler\", \"inputs\": {\"seed\": 5, \"positive\": [\"6\", 0]}}, \"6\": {\"class_type\": \"CLIPTextEncode\", \"inputs\": {\"text\": \"a fox\"}}}"),
        (b"tEXt", b"workflow\0{\"nodes\": [{\"id\": 1}]}"),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><rdf:li xml:lang=\"x-default\">a fox</rdf:li></x:xmpmeta>"),
        (b"zTXt", &compressed[8..compressed.len() - 4]),
        (b"tEXt", b"Comment\0{\"prompt\": \"a fox\", \"steps\": 28}"),
        (b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x87i\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0\0\x01\x92\x86\0\x07\0\0\0\x0f\0\0\0\x2c\0\0\0\0UNICODE\0\0a\0 \0f\0o"),
    ];
    for (kind, data) in foreign {
        chunks.insert(1, (*kind, data.to_vec()));
    }
    whole(&chunks)
});

type Chunk = ([u8; 4], Vec<u8>);

/// A picture with texts of several programs.
pub(super) fn good() -> Vec<u8> {
    GOOD.clone()
}

fn chunks(file: &[u8]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut rest = &file[8..];
    while rest.len() >= 12 {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        chunks.push((rest[4..8].try_into().unwrap(), rest[8..8 + length].to_vec()));
        rest = &rest[12 + length..];
    }
    chunks
}

fn whole(chunks: &[Chunk]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        file.extend((data.len() as u32).to_be_bytes());
        file.extend(kind);
        file.extend(data);
        file.extend(crc([kind.as_slice(), data].concat()).to_be_bytes());
    }
    file
}

/// The CRC-32 of PNG.
fn crc(bytes: Vec<u8>) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// A damaged copy and its allowed results. Pixels without corrected CRCs equal those of the good
/// picture.
pub(super) fn damage(rng: &mut Rng, good: &[u8]) -> (Vec<u8>, Allowed) {
    if rng.below(3) == 0 {
        return (bytes::damage(rng, good), Allowed::Same);
    }
    let mut chunks = chunks(good);
    let mut allowed = Allowed::Same;
    for _ in 0..=rng.below(2) {
        let at = rng.below(chunks.len());
        let kinds = [
            *b"tEXt",
            *b"zTXt",
            *b"iTXt",
            *b"eXIf",
            *b"PLTE",
            *b"tRNS",
            *b"IDAT",
            *b"IEND",
            *b"acTL",
            *b"fcTL",
            *b"iCCP",
            *b"\0\xff\0\0",
        ];
        match rng.below(9) {
            0 | 1 => chunks[at].1 = bytes::damage(rng, &chunks[at].1),
            2 => chunks[at].0 = *rng.pick(&kinds),
            3 => drop(chunks.remove(at)),
            4 => {
                let copy = chunks[at].clone();
                chunks.insert(rng.below(chunks.len()), copy);
            }
            5 => {
                let other = rng.below(chunks.len());
                chunks.swap(at, other);
            }
            6 => chunks.insert(at, (*b"zTXt", BOMB.clone())),
            7 => {
                // Changes the size, depth and colour type in the header.
                let field = rng.below(13);
                if let Some(byte) = chunks[0].1.get_mut(field) {
                    *byte = rng.next() as u8;
                }
            }
            _ => {
                let many = 1 << rng.below(11);
                let text = (*b"tEXt", b"parameters\0".iter().chain(&vec![b'x'; 1 << rng.below(10)]).copied().collect());
                chunks.splice(1..1, vec![text; many]);
            }
        }
        allowed = Allowed::Any;
        if chunks.is_empty() {
            break;
        }
    }
    (whole(&chunks), allowed)
}
