//! The index of a sharded part: `<stem>.safetensors.index.json`, whose `weight_map` says which
//! tensor is in which file.

use crate::error::{Error, Result, excerpt};
use crate::json;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// More bytes than an index has: those of the published models have less than 100 kB.
pub(super) const LONGEST: u64 = 16 << 20;

/// Reads the weight map, tensor → shard. `path` is for messages.
pub(super) fn read_index(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map: map } = json::parse(path, bytes)?;
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

/// Shards lie beside their index. Anything else could lead out of the model's folder, on any
/// system, or write what it likes to the terminal that shows the path in a message.
fn is_plain_name(shard: &str) -> bool {
    const LONGEST: usize = 255;
    let forbidden = |c: char| c.is_control() || ['/', '\\', ':'].contains(&c);
    shard.ends_with(".safetensors") && shard.len() <= LONGEST && !shard.contains(forbidden)
}
