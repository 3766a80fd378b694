//! The texts in XMP, which is XML: the few properties with generation data, as elements or
//! attributes.

/// The properties to read, with the names of their texts.
const PROPERTIES: [(&str, &str); 4] = [
    ("exif:UserComment", "UserComment"),
    ("dc:description", "Description"),
    ("xmp:CreatorTool", "Software"),
    ("parameters", "parameters"),
];

/// The texts of an XMP packet.
pub(super) fn texts(packet: &str) -> Vec<(&'static str, String)> {
    PROPERTIES.iter().filter_map(|(property, name)| Some((*name, value(packet, property)?))).collect()
}

fn value(packet: &str, property: &str) -> Option<String> {
    element(packet, property).or_else(|| attribute(packet, property)).filter(|text| !text.is_empty())
}

/// The text of the first element of this name, without nested elements.
fn element(packet: &str, name: &str) -> Option<String> {
    let mut rest = packet;
    let (tag, inside) = loop {
        let at = rest.find('<')?;
        rest = &rest[at + 1..];
        let Some(after) = rest.strip_prefix(name) else { continue };
        if after.starts_with(['>', ' ', '\t', '\r', '\n', '/']) {
            break after.split_once('>')?;
        }
    };
    if tag.ends_with('/') {
        return None;
    }
    let inside = &inside[..inside.find(&format!("</{name}>"))?];
    let mut text = String::new();
    let mut rest = inside;
    while let Some((before, tag)) = rest.split_once('<') {
        text += before;
        rest = match tag.strip_prefix("![CDATA[").and_then(|data| data.split_once("]]>")) {
            // CDATA: ampersands are literal.
            Some((data, after)) => {
                text += &data.replace('&', "&amp;");
                after
            }
            None => tag.split_once('>').map_or("", |(_, after)| after),
        };
    }
    text += rest;
    Some(unescaped(text.trim()))
}

/// The value of the first attribute of this name.
fn attribute(packet: &str, name: &str) -> Option<String> {
    let rest =
        [format!(" {name}=\""), format!("\n{name}=\"")].iter().find_map(|start| packet.split_once(start.as_str()));
    rest?.1.split_once('"').map(|(text, _)| unescaped(text))
}

/// Text with XML's five entities and its numeric character references decoded.
fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain += before;
        let entity = after.split_once(';').and_then(|(name, after)| Some((character(name)?, after)));
        rest = match entity {
            Some((c, after)) => {
                plain.push(c);
                after
            }
            None => {
                plain.push('&');
                after
            }
        };
    }
    plain + rest
}

fn character(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}
