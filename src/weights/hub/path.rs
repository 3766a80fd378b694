//! Paths inside a repository, which come from the network and become paths on disk.

/// The maximum length of a path in bytes, and of each of its names, which is the limit of common
/// file systems.
const LONGEST: usize = 1024;
const LONGEST_NAME: usize = 255;

/// True for a path that stays inside its folder on every system: relative, separated by `/`, with
/// no `.` or `..`, no backslash, no control character, and no Windows drive.
pub(super) fn is_safe(path: &str) -> bool {
    let is_drive = |name: &str| name.as_bytes().get(1) == Some(&b':');
    let is_name = |name: &str| {
        !["", ".", ".."].contains(&name)
            && name.len() <= LONGEST_NAME
            && !name.contains(|c: char| c.is_control() || c == '\\')
            && !is_drive(name)
    };
    path.len() <= LONGEST && path.split('/').all(is_name)
}

/// A path as part of a URL: every byte but letters, digits, `-._~` and `/` is encoded.
pub(super) fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_stay_inside_are_safe() {
        for path in ["a", "a/b.c", ".gitattributes", "a b/ü", "a..b", "ab:c"] {
            assert!(is_safe(path), "{path}");
        }
        let long = ["a/".repeat(600), "a".repeat(256)];
        for path in
            ["", "/a", "a/", "a//b", ".", "a/./b", "..", "a/../b", "a\\b", "\\\\host\\a", "C:", "a/C:b", "a\nb", "\0"]
                .into_iter()
                .chain(long.iter().map(String::as_str))
        {
            assert!(!is_safe(path), "{path:?}");
        }
    }

    #[test]
    fn urls_are_encoded() {
        assert_eq!(encode("a b/ü#?%.x"), "a%20b/%C3%BC%23%3F%25.x");
    }
}
