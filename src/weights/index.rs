//! The index of a sharded part: `<stem>.safetensors.index.json`, whose `weight_map` says which tensor is in which file.

use super::excerpt;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Reads the weight map, tensor → shard. `path` is for messages.
pub(super) fn read_index(path: &Path, json: &[u8]) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: WeightMap,
    }
    let Index { weight_map: WeightMap(map) } = serde_json::from_slice(json)
        .map_err(|e| Error::file(path, format!("broken index: {}", excerpt(&e.to_string()))))?;
    if map.is_empty() {
        return Err(Error::file(path, "weight_map: expected tensors and their files, found none"));
    }
    for (tensor, shard) in &map {
        if !is_plain_name(shard) {
            let (tensor, shard) = (excerpt(tensor), excerpt(shard));
            let expected = "expected the name of a .safetensors file in the same folder";
            return Err(Error::file(path, format!("weight_map: {tensor}: {expected}, found {shard:?}")));
        }
    }
    Ok(map)
}

/// Shards lie beside their index. Anything else could lead out of the model's folder, on any system, or write what it
/// likes to the terminal that shows the path in a message.
fn is_plain_name(shard: &str) -> bool {
    const LONGEST: usize = 255;
    let forbidden = |c: char| c.is_control() || ['/', '\\', ':'].contains(&c);
    shard.ends_with(".safetensors") && shard.len() <= LONGEST && !shard.contains(forbidden)
}

/// A map in which no name occurs twice: serde would silently keep the last one.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensor names to file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<WeightMap, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((tensor, shard)) = entries.next_entry::<String, String>()? {
            if map.contains_key(&tensor) {
                return Err(A::Error::custom(format!("tensor {}: the name occurs twice", excerpt(&tensor))));
            }
            map.insert(tensor, shard);
        }
        Ok(WeightMap(map))
    }
}
