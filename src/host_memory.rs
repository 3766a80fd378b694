//! The host's memory.

/// Bytes of memory that programs can still take, without what the system needs to stay usable;
/// `None` where the system does not tell.
pub(crate) fn available() -> Option<u64> {
    /// Left to the system.
    const MARGIN: u64 = 2 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    parsed(&text).map(|bytes| bytes.saturating_sub(MARGIN))
}

/// `MemAvailable` of Linux's `/proc/meminfo`, in bytes.
fn parsed(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let text = "MemTotal:       24689764 kB\nMemFree:  1 kB\nMemAvailable:   23013592 kB\n";
        assert_eq!(parsed(text), Some(23_013_592 * 1024));
        assert_eq!(parsed("MemTotal: 1 kB\n"), None);
        assert_eq!(parsed("MemAvailable: lots\n"), None);
    }
}
