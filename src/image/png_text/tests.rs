//! Broken and hostile texts. `tests/png_text.rs` has the texts of other programs.

use super::texts::{MAX_READ, MAX_TEXTS};
use super::*;
use std::io::Write;

/// Reads a PNG of one pixel with these chunks.
fn read(chunks: &[(&[u8; 4], &[u8])]) -> PngText {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().unwrap();
    for (kind, data) in chunks {
        writer.write_chunk(png::chunk::ChunkType(**kind), data).unwrap();
    }
    writer.write_image_data(&[9]).unwrap();
    writer.finish().unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    PngText::open(file.path()).unwrap()
}

fn text(key: &str, value: &str) -> PngText {
    read(&[(b"tEXt", format!("{key}\0{value}").as_bytes())])
}

#[test]
fn decompression_is_bounded() {
    use png::text_metadata::{EncodableTextChunk, ZTXtChunk};
    let mut bomb = ZTXtChunk::new(PARAMETERS, "a".repeat(MAX_TEXT + 1));
    bomb.compress_text().unwrap();
    let mut chunk = Vec::new();
    bomb.encode(&mut chunk).unwrap();
    let text = read(&[(b"zTXt", &chunk[8..chunk.len() - 4])]);
    assert_eq!((text.parameters, text.keys), (None, vec![PARAMETERS.to_owned()]));
}

#[test]
fn texts_have_a_bounded_number_and_length() {
    let mut texts = Texts::default();
    for i in 0..1000 {
        texts.add("a", "x".repeat(if i < 3 { MAX_TEXT } else { 1 << 16 }));
    }
    assert!(texts.list.len() <= MAX_READ && texts.bytes <= MAX_TEXTS, "{} {}", texts.list.len(), texts.bytes);
}

#[test]
fn cyclic_graphs_terminate() {
    let link = r#"["1", 0]"#;
    let graph = format!(
        r#"{{"1": {{"class_type": "K", "inputs": {{"seed": {link}, "positive": {link}, "negative": {link}}}}}}}"#
    );
    let found = text("prompt", &graph).foreign.unwrap();
    assert_eq!((found.program.as_str(), found.prompt, found.settings.len()), ("ComfyUI", None, 1));
    let chain: Vec<String> = (0..20_000)
        .map(|i| {
            format!(
                r#""{i}": {{"class_type": "C", "inputs": {{"seed": ["{}", 0], "positive": ["{}", 0]}}}}"#,
                i + 1,
                i + 1
            )
        })
        .collect();
    assert_eq!(text("prompt", &format!("{{{}}}", chain.join(","))).foreign.unwrap().prompt, None);
}

#[test]
fn json_of_any_depth_is_read_safely() {
    for deep in ["[".repeat(1_000_000), "{\"a\":".repeat(200_000), format!("{}{}", "[".repeat(500), "]".repeat(500))] {
        for key in ["prompt", "workflow", "invokeai_metadata", "sd-metadata", "Comment", "parameters"] {
            let found = text(key, &deep);
            assert!(found.foreign.is_none_or(|found| found.settings.iter().all(|(_, value)| value.len() < 500)));
        }
    }
}

#[test]
fn settings_are_few_and_short() {
    let many: Vec<String> = (0..500).map(|i| format!(r#""k{i}": "{}""#, "x".repeat(1000))).collect();
    let found = text("invokeai_metadata", &format!(r#"{{"prompt": "a", {}}}"#, many.join(","))).foreign.unwrap();
    assert!(found.settings.len() <= 48 && found.settings.iter().all(|(_, value)| value.chars().count() <= 401));
}

#[test]
fn python_s_special_numbers_are_accepted() {
    let graph = r#"{"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "NaN \"Infinity\" \\"}, "is_changed": [NaN, -Infinity]}}"#;
    assert_eq!(text("prompt", graph).foreign.unwrap().prompt.unwrap(), "NaN \"Infinity\" \\");
}

#[test]
fn broken_exif_is_ignored() {
    let whole = b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0\0\x01\x92\x86\0\x07\0\0\0\x12\0\0\0\x2c\0\0\0\0UNICODE\0\0a\0 \0f\0o\0x";
    assert_eq!(exif::texts(whole), [("UserComment", "a fox".to_owned())]);
    for length in 0..whole.len() {
        exif::texts(&whole[..length]);
        let mut broken = whole.to_vec();
        broken[length] ^= 0xff;
        exif::texts(&broken);
    }
    assert!(exif::texts(b"MM\0*\xff\xff\xff\xff").is_empty());
}

#[test]
fn exif_as_digits_is_read() {
    let exif = b"II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0\x04\0\0\0fox\0\0\0\0\0";
    let digits: Vec<String> =
        exif.chunks(36).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    let found = text("Raw profile type exif", &format!("\nexif\n      {}\n{}\n", exif.len(), digits.join("\n")));
    assert_eq!(found.foreign.unwrap().settings, [("ImageDescription".to_owned(), "fox".to_owned())]);
    assert_eq!(text("Raw profile type exif", "\nexif\n 4\nzz").foreign, None);
}

#[test]
fn xmp_is_read_as_elements_and_attributes() {
    let packet = |inside: &str| xmp::texts(&format!("<x:xmpmeta><rdf:Description {inside}</x:xmpmeta>"));
    let attribute = packet("xmp:CreatorTool=\"A &quot;B&quot;\" dc:format=\"\"/>");
    assert_eq!(attribute, [("Software", "A \"B\"".to_owned())]);
    let element = packet("><dc:description><![CDATA[a < b & c]]> &#x72d0;&#x110000;&lt;</dc:description>");
    assert_eq!(element, [("Description", "a < b & c 狐&#x110000;<".to_owned())]);
    for broken in ["<dc:description", "<dc:description>", "<dc:description/>", "<dc:description><", "&", "<"] {
        assert!(packet(broken).is_empty(), "{broken}");
    }
}
