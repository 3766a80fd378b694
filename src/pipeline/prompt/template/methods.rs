//! The methods of Python's strings, lists and dictionaries that chat templates call.

use super::filters::{joined, replaced};
use super::limits::Limits;
use minijinja::value::{ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Value};
use std::sync::Arc;

/// Adds the methods to an environment; `limits` is charged for every value that they make.
pub(super) fn add(environment: &mut Environment<'_>, limits: &Arc<Limits>) {
    let limits = limits.clone();
    environment.set_unknown_method_callback(move |_, value, method, args| match (value.as_str(), value.kind()) {
        (Some(text), _) => of_text(text, method, args, &limits),
        (None, ValueKind::Map) => of_map(value, method, args).and_then(|value| limits.made(value)),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    });
}

fn of_map(map: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let item = |key: &Value| map.get_item(key);
    match method {
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = item(&key)?;
            Ok(if found.is_undefined() { default.unwrap_or_else(|| ().into()) } else { found })
        }
        "keys" => from_args::<()>(args).and_then(|()| Ok(map.try_iter()?.collect())),
        "values" => from_args::<()>(args).and_then(|()| map.try_iter()?.map(|key| item(&key)).collect()),
        "items" => from_args::<()>(args)
            .and_then(|()| map.try_iter()?.map(|key| Ok(Value::from(vec![key.clone(), item(&key)?]))).collect()),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_text(text: &str, method: &str, args: &[Value], limits: &Limits) -> Result<Value, Error> {
    let made = |text: &str| limits.made(text.into());
    match method {
        "startswith" => any(args, |part| text.starts_with(part)),
        "endswith" => any(args, |part| text.ends_with(part)),
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(args)?;
            let strip = |c: char| set.map_or(c.is_whitespace(), |set| set.contains(c));
            let text = if method == "rstrip" { text } else { text.trim_start_matches(strip) };
            made(if method == "lstrip" { text } else { text.trim_end_matches(strip) })
        }
        "removeprefix" => {
            let (part,): (&str,) = from_args(args)?;
            made(text.strip_prefix(part).unwrap_or(text))
        }
        "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            made(text.strip_suffix(part).unwrap_or(text))
        }
        "split" => {
            let (separator, most): (Option<&str>, Option<usize>) = from_args(args)?;
            let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
            let parts: Vec<&str> = match separator {
                Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
                Some(separator) => text.splitn(most, separator).collect(),
                None if most == usize::MAX => text.split_whitespace().collect(),
                None => return Err(Error::new(ErrorKind::InvalidOperation, "split needs a separator with maxsplit")),
            };
            limits.make(parts.len().saturating_mul(size_of::<Value>()).saturating_add(text.len()))?;
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "splitlines" => from_args::<()>(args).and_then(|()| limits.made(text.lines().map(Value::from).collect())),
        "replace" => {
            let (from, to): (&str, &str) = from_args(args)?;
            replaced(text, from, to, limits)
        }
        "join" => {
            let (list,): (Value,) = from_args(args)?;
            joined(&list, text, limits)
        }
        "lower" => from_args::<()>(args).and_then(|()| made(&text.to_lowercase())),
        "upper" => from_args::<()>(args).and_then(|()| made(&text.to_uppercase())),
        "count" => {
            let (part,): (&str,) = from_args(args)?;
            Ok(Value::from(text.matches(part).count()))
        }
        "find" => {
            let (part,): (&str,) = from_args(args)?;
            let place = text.find(part).and_then(|byte| i64::try_from(text[..byte].chars().count()).ok());
            Ok(Value::from(place.unwrap_or(-1)))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// True if `test` holds for the argument, or for one of a list of arguments.
fn any(args: &[Value], test: impl Fn(&str) -> bool) -> Result<Value, Error> {
    let (parts,): (Value,) = from_args(args)?;
    match parts.as_str() {
        Some(part) => Ok(test(part).into()),
        None => Ok(parts.try_iter()?.any(|part| part.as_str().is_some_and(&test)).into()),
    }
}
