//! The texts in EXIF: a TIFF directory and the sub-directory of EXIF's own tags.

const IMAGE_DESCRIPTION: u16 = 0x010e;
const SOFTWARE: u16 = 0x0131;
const EXIF_DIRECTORY: u16 = 0x8769;
const USER_COMMENT: u16 = 0x9286;

/// A TIFF file in memory, with its byte order.
struct Tiff<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl<'a> Tiff<'a> {
    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) } as usize)
    }

    /// The offset of a tag's entry in the directory at `at`.
    fn entry(&self, at: usize, tag: u16) -> Option<usize> {
        let entries = usize::from(self.u16(at)?);
        (0..entries).map(|i| at + 2 + 12 * i).find(|&entry| self.u16(entry) == Some(tag))
    }

    /// A tag's value, as bytes or text.
    fn value(&self, directory: usize, tag: u16) -> Option<&'a [u8]> {
        let entry = self.entry(directory, tag)?;
        let length = self.u32(entry + 4)?;
        // ASCII, BYTE and UNDEFINED have elements of one byte; other types are not text.
        if !matches!(self.u16(entry + 2)?, 1 | 2 | 7) {
            return None;
        }
        let start = if length <= 4 { entry + 8 } else { self.u32(entry + 8)? };
        self.bytes.get(start..start.checked_add(length)?)
    }
}

/// The texts of an eXIf chunk, by tag name.
pub(super) fn texts(bytes: &[u8]) -> Vec<(&'static str, String)> {
    let bytes = bytes.strip_prefix(b"Exif\0\0").unwrap_or(bytes);
    let big = match bytes.get(..4) {
        Some(b"MM\0*") => true,
        Some(b"II*\0") => false,
        _ => return Vec::new(),
    };
    let tiff = Tiff { bytes, big };
    let Some(main) = tiff.u32(4) else { return Vec::new() };
    let inner = tiff.entry(main, EXIF_DIRECTORY).and_then(|entry| tiff.u32(entry + 8));
    let comment = inner.and_then(|inner| tiff.value(inner, USER_COMMENT)).map(|value| comment(value, big));
    let text = |tag| tiff.value(main, tag).map(plain);
    [("UserComment", comment), ("ImageDescription", text(IMAGE_DESCRIPTION)), ("Software", text(SOFTWARE))]
        .into_iter()
        .filter_map(|(name, text)| Some((name, text?)))
        .collect()
}

/// A user comment. Its first eight bytes name the encoding.
fn comment(value: &[u8], big: bool) -> String {
    match value.split_at_checked(8) {
        Some((b"UNICODE\0", text)) => utf16(text, big),
        Some((b"ASCII\0\0\0" | b"JIS\0\0\0\0\0" | b"\0\0\0\0\0\0\0\0", text)) => plain(text),
        _ => plain(value),
    }
}

/// UTF-16. EXIF does not define its byte order and programs differ, so the zero bytes of ASCII
/// letters decide, and without any the file's own order.
fn utf16(text: &[u8], big: bool) -> String {
    let zeros = |side: usize| text.chunks_exact(2).filter(|pair| pair[side] == 0).count();
    let big = match zeros(0).cmp(&zeros(1)) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => big,
    };
    let read = |pair: &[u8]| {
        let pair = [pair[0], pair[1]];
        if big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
    };
    let units: Vec<u16> = text.chunks_exact(2).map(read).collect();
    String::from_utf16_lossy(&units).trim_matches(['\0', '\u{feff}']).to_owned()
}

/// UTF-8 or else Latin-1, without the trailing zeros.
fn plain(text: &[u8]) -> String {
    let end = text.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let text = &text[..end];
    String::from_utf8(text.to_vec()).unwrap_or_else(|_| text.iter().map(|&byte| char::from(byte)).collect())
}

/// The bytes of a profile in ImageMagick's form: name, length and hexadecimal digits, on several
/// lines.
pub(super) fn from_digits(text: &str) -> Option<Vec<u8>> {
    let mut words = text.split_ascii_whitespace();
    let (_name, length) = (words.next()?, words.next()?.parse::<usize>().ok()?);
    let digits: Vec<u8> = words.flat_map(str::bytes).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes: Option<Vec<u8>> =
        digits.chunks_exact(2).map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()).collect();
    bytes.filter(|bytes| bytes.len() == length)
}
