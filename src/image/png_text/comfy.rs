//! ComfyUI's graphs. A picture stores its nodes as `prompt`, and the editor's view of them as
//! `workflow`. Texts and numbers are found by following links upward from the sampler node.

use super::foreign::{Foreign, scalar};
use serde_json::{Map, Value};
use std::collections::{HashSet, VecDeque};

/// Maximum nodes visited for one value.
const MOST_VISITS: usize = 512;
/// Inputs that contain a prompt's words, of nodes that encode or store them.
const WORDS: [&str; 8] = ["text", "prompt", "positive_prompt", "value", "string", "t5xxl", "text_g", "clip_l"];
/// Inputs with other generation data. Of several inputs for one name, the most specific comes
/// first.
const SETTINGS: [(&str, &[&str]); 9] = [
    ("seed", &["seed", "noise_seed"]),
    ("steps", &["steps"]),
    ("cfg", &["cfg", "guidance"]),
    ("sampler", &["sampler_name"]),
    ("scheduler", &["scheduler"]),
    ("denoise", &["denoise"]),
    ("model", &["unet_name", "ckpt_name", "model_name"]),
    ("width", &["width"]),
    ("height", &["height"]),
];

type Nodes = Map<String, Value>;

/// The data in a graph; `None` unless `graph` is an object of nodes with classes and inputs.
pub(super) fn graph(graph: &Value) -> Option<Foreign> {
    let nodes = graph.as_object().filter(|nodes| nodes.values().any(|node| node["class_type"].is_string()))?;
    let sampler = sampler(nodes);
    let from = |side: &str| sampler.and_then(|sampler| words(nodes, sampler, side));
    let prompt = from("positive").or_else(|| nodes.keys().find_map(|id| own_words(nodes, &nodes[id])));
    let mut found = Foreign::of("ComfyUI", prompt, from("negative"));
    for (name, keys) in SETTINGS {
        if let Some(value) = sampler.and_then(|sampler| setting(nodes, sampler, keys)) {
            found.set(name, value);
        }
    }
    found.set("nodes", classes(nodes.values().filter_map(|node| node["class_type"].as_str())));
    Some(found)
}

/// The data in the editor's view of a graph, for a file without the graph itself. The prompt is the
/// text of the first encoder node.
pub(super) fn workflow(workflow: &Value) -> Option<Foreign> {
    let nodes = workflow["nodes"].as_array()?;
    let words = nodes.iter().filter(|node| node["type"].as_str().is_some_and(|class| class.contains("TextEncode")));
    let mut words = words.filter_map(|node| node["widgets_values"][0].as_str().map(str::to_owned));
    let mut found = Foreign::of("ComfyUI", words.next(), None);
    found.set("nodes", classes(nodes.iter().filter_map(|node| node["type"].as_str())));
    Some(found)
}

/// Some classes of a graph's nodes, each once.
fn classes<'a>(classes: impl Iterator<Item = &'a str>) -> String {
    let mut list: Vec<&str> = Vec::new();
    for class in classes {
        if list.len() < 12 && !list.contains(&class) {
            list.push(class);
        }
    }
    list.join(", ")
}

/// The sampler: the node with the lowest number that has inputs for a seed and for a prompt.
fn sampler(nodes: &Nodes) -> Option<&Value> {
    let mut ids: Vec<&String> = nodes.keys().collect();
    ids.sort_by_key(|id| (id.len(), *id));
    let has = |node: &Value, keys: &[&str]| keys.iter().any(|key| !node["inputs"][key].is_null());
    let samples = |node: &&Value| {
        (has(node, &["positive"]) && has(node, &["seed", "noise_seed"]))
            || (has(node, &["guider", "conditioning"]) && has(node, &["noise", "sigmas"]))
    };
    ids.iter().map(|id| &nodes[*id]).find(samples)
}

/// The node behind a link. A link is a node's name and an output number.
fn linked<'a>(nodes: &'a Nodes, input: &Value) -> Option<(&'a Value, u64)> {
    let link = input.as_array().filter(|link| link.len() == 2)?;
    Some((nodes.get(link[0].as_str()?)?, link[1].as_u64()?))
}

/// The words in a node or in its inputs.
fn own_words(nodes: &Nodes, node: &Value) -> Option<String> {
    let inputs = node["inputs"].as_object()?;
    WORDS.iter().filter_map(|key| inputs.get(*key)).find_map(|input| match input {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        input => {
            let (holder, _) = linked(nodes, input)?;
            WORDS.iter().find_map(|key| holder["inputs"][key].as_str()).map(str::to_owned)
        }
    })
}

/// The words behind the `positive` or `negative` input of a sampler or of the guider before it.
fn words(nodes: &Nodes, sampler: &Value, side: &str) -> Option<String> {
    let inputs = &sampler["inputs"];
    let guider = linked(nodes, &inputs["guider"]).map(|(guider, _)| &guider["inputs"]);
    let input = [Some(inputs), guider].into_iter().flatten().find_map(|inputs| match (&inputs[side], side) {
        (Value::Null, "positive") => Some(&inputs["conditioning"]).filter(|input| !input.is_null()),
        (Value::Null, _) => None,
        (input, _) => Some(input),
    })?;
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([linked(nodes, input)?]);
    while let Some((node, output)) = queue.pop_front() {
        if seen.len() == MOST_VISITS || !seen.insert(std::ptr::from_ref(node)) {
            continue;
        }
        if let Some(text) = own_words(nodes, node) {
            return Some(text);
        }
        // A node with both sides passes them through. Its second output is the negative one.
        let other = if output == 0 { "negative" } else { "positive" };
        let both = !node["inputs"]["positive"].is_null() && !node["inputs"]["negative"].is_null();
        let inputs = node["inputs"].as_object().into_iter().flatten();
        queue.extend(inputs.filter(|(key, _)| !both || *key != other).filter_map(|(_, input)| linked(nodes, input)));
    }
    None
}

/// The nearest value of one of these inputs, at a sampler or upstream of it.
fn setting(nodes: &Nodes, sampler: &Value, keys: &[&str]) -> Option<String> {
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([sampler]);
    while let Some(node) = queue.pop_front() {
        if seen.len() == MOST_VISITS || !seen.insert(std::ptr::from_ref(node)) {
            continue;
        }
        for key in keys {
            let input = &node["inputs"][key];
            let holder = linked(nodes, input).map(|(holder, _)| &holder["inputs"]["value"]);
            if let Some(value) = scalar(input).or_else(|| holder.and_then(scalar)) {
                return Some(value);
            }
        }
        let inputs = node["inputs"].as_object().into_iter().flatten();
        queue.extend(inputs.filter_map(|(_, input)| linked(nodes, input)).map(|(node, _)| node));
    }
    None
}
