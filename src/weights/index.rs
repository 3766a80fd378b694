//! The index of a sharded part: `<stem>.safetensors.index.json`, whose `weight_map` maps tensors to
//! files.

use crate::error::{Error, Result, excerpt};
use crate::json;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Maximum bytes of an index: those of the published models have less than 100 kB.
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

/// True for a plain file name. Shards are next to their index. Any other path could lead out of the
/// model's folder, or inject control characters into the terminal that shows it in a message.
fn is_plain_name(shard: &str) -> bool {
    const LONGEST: usize = 255;
    let forbidden = |c: char| c.is_control() || ['/', '\\', ':'].contains(&c);
    shard.ends_with(".safetensors") && shard.len() <= LONGEST && !shard.contains(forbidden)
}
