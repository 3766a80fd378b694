//! Generation data in the forms of programs other than AUTOMATIC1111.

use super::foreign::{Foreign, scalar};
use super::texts::Texts;
use super::{PARAMETERS, comfy};
use crate::json::strict;
use serde_json::{Map, Value};

/// The text in AUTOMATIC1111's form: the chunk of that name, or a comment in that form.
pub(super) fn parameters(texts: &Texts) -> Option<String> {
    let like_it = |text: &&str| text.contains("Steps: ") && text.contains("Seed: ");
    let comments = ["UserComment", "Comment", "Description", "ImageDescription"];
    let comment = || comments.iter().filter_map(|key| texts.get(key)).find(like_it);
    texts.get(PARAMETERS).or_else(comment).map(str::to_owned)
}

/// Data of other programs. The least ambiguous form is tried first.
pub(super) fn read(texts: &Texts) -> Option<Foreign> {
    let json = |key: &str| texts.get(key).and_then(parsed);
    let object = |key: &str| json(key).and_then(|value| if let Value::Object(map) = value { Some(map) } else { None });
    let software = || texts.get("Software").unwrap_or_default();
    if let Some(found) = object(PARAMETERS).as_ref().and_then(|map| flat(map, "")) {
        return Some(found);
    }
    if let Some(found) = object("invokeai_metadata").as_ref().and_then(|map| flat(map, "InvokeAI")) {
        return Some(found);
    }
    if let Some(found) = object("sd-metadata").and_then(|map| invoke_two(&map)) {
        return Some(found);
    }
    if let Some(text) = texts.get("Dream") {
        return Some(dream(text));
    }
    // NovelAI's comment completes its description.
    let description = texts.get("Description").filter(|_| software().starts_with("NovelAI")).map(Value::from);
    for comment in ["Comment", "UserComment", "ImageDescription", "Description"] {
        let map = object(comment).map(|mut map| {
            if let (Some(description), false) = (&description, map.contains_key("prompt")) {
                map.insert("prompt".into(), description.clone());
            }
            map
        });
        if let Some(mut found) = map.as_ref().and_then(|map| flat(map, software())) {
            if let Some(source) = texts.get("Source") {
                found.set("source", source.to_owned());
            }
            return Some(found);
        }
    }
    // Two programs use the same name for a graph and for a plain text.
    match (texts.get("prompt"), json("prompt")) {
        (_, Some(graph)) if comfy::graph(&graph).is_some() => return comfy::graph(&graph),
        (Some(_), _) => return Some(separate(texts)),
        _ => {}
    }
    if let Some(found) = json("workflow").and_then(|workflow| comfy::workflow(&workflow)) {
        return Some(found);
    }
    // A description adds nothing to a text in AUTOMATIC1111's form.
    let described = parameters(texts).is_none()
        && ["Description", "Comment", "UserComment", "ImageDescription"].iter().any(|key| texts.get(key).is_some());
    described.then(|| separate(texts))
}

/// Every text as a separate setting.
fn separate(texts: &Texts) -> Foreign {
    let get = |keys: &[&str]| keys.iter().find_map(|key| texts.get(key)).map(str::to_owned);
    let software = texts.get("Software").unwrap_or_default();
    let mut found = Foreign::of(software, get(&["prompt"]), get(&["negative_prompt", "negative prompt"]));
    let known = ["prompt", "negative_prompt", "negative prompt", "software", "xml:com.adobe.xmp", "zimage"];
    for (name, text) in &texts.list {
        let lower = name.to_lowercase();
        if !known.contains(&lower.as_str()) && !lower.starts_with("raw profile") {
            found.set(name, text.clone());
        }
    }
    found
}

/// A JSON document in Python's dialect.
fn parsed(text: &str) -> Option<Value> {
    let text = text.trim();
    // Most texts are not JSON documents.
    if !text.starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_slice(&strict(text.as_bytes())).ok()
}

/// A prompt: a text, or a list of weighted texts.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => {
            let words: Vec<&str> = list.iter().filter_map(|part| part.as_str().or(part["prompt"].as_str())).collect();
            (!words.is_empty()).then(|| words.join(", "))
        }
        _ => None,
    }
}

/// One flat object, in the spellings of SwarmUI, Fooocus, InvokeAI, NovelAI, Draw Things, mflux and
/// others; `None` without a prompt.
fn flat(map: &Map<String, Value>, program: &str) -> Option<Foreign> {
    const PROMPTS: [&str; 5] = ["prompt", "positive_prompt", "Prompt", "c", "full_prompt"];
    const NEGATIVES: [&str; 8] = [
        "negative_prompt",
        "negativeprompt",
        "negativePrompt",
        "Negative Prompt",
        "uc",
        "full_negative_prompt",
        "undesired_content",
        "neg_prompt",
    ];
    if let Some(inner) = map.get("sui_image_params").and_then(Value::as_object) {
        return flat(inner, "SwarmUI");
    }
    let first =
        |keys: &[&str]| keys.iter().filter_map(|key| map.get(*key)).find_map(words).filter(|text| !text.is_empty());
    let prompt = first(&PROMPTS)?;
    let program = match map {
        _ if map.contains_key("fooocus_scheme") || map.contains_key("metadata_scheme") => "Fooocus",
        _ if map.contains_key("mflux_version") => "mflux",
        _ if map.get("version").and_then(Value::as_str).is_some_and(|version| version.starts_with("Fooocus")) => {
            "Fooocus"
        }
        _ => program,
    };
    let mut found = Foreign::of(program, Some(prompt), first(&NEGATIVES));
    for (name, value) in map {
        if PROMPTS.contains(&name.as_str()) || NEGATIVES.contains(&name.as_str()) {
            continue;
        }
        // A model may be an object with its name and file hashes.
        let named = || ["name", "model_name"].iter().find_map(|key| value[key].as_str().map(str::to_owned));
        if let Some(value) = scalar(value).or_else(named) {
            found.set(name, value);
        }
    }
    Some(found)
}

/// InvokeAI's form up to its second version.
fn invoke_two(map: &Map<String, Value>) -> Option<Foreign> {
    let mut found = flat(map.get("image")?.as_object()?, "InvokeAI")?;
    for name in ["model_weights", "app_version"] {
        if let Some(value) = map.get(name).and_then(scalar) {
            found.set(name, value);
        }
    }
    Some(found)
}

/// InvokeAI's oldest form: a prompt in quotes and the flags of its command line.
fn dream(text: &str) -> Foreign {
    let (prompt, flags) = match text.trim().strip_prefix('"').and_then(|text| text.split_once('"')) {
        Some((prompt, flags)) => (prompt, flags),
        None => (text, ""),
    };
    let mut found = Foreign::of("InvokeAI", Some(prompt.to_owned()), None);
    found.set("options", flags.trim().to_owned());
    found
}
