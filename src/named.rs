//! Values that users choose by name: one list of names, from which parsing, printing and messages
//! derive.

/// The value called `name`.
pub(crate) fn value<T: Clone>(names: &[(&'static str, T)], name: &str) -> Option<T> {
    names.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone())
}

/// The name of `value`.
pub(crate) fn name<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> Option<&'static str> {
    names.iter().find(|(_, other)| other == value).map(|(name, _)| *name)
}

/// The names as a message lists them: `auto, none or sequential`.
pub(crate) fn list<T>(names: &[(&'static str, T)]) -> String {
    let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_find_each_other() {
        let names = [("one", 1), ("two", 2), ("three", 3)];
        assert_eq!((value(&names, "two"), value(&names, "four")), (Some(2), None));
        assert_eq!((name(&names, &3), name(&names, &4)), (Some("three"), None));
        assert_eq!(list(&names), "one, two or three");
        assert_eq!((list(&names[..1]), list(&names[..2])), ("one".into(), "one or two".into()));
    }
}
