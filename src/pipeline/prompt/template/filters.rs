//! The filters, tests and functions of chat templates, as transformers' environment has them.

use super::guard::{ADD, CONCAT, HOLD, LIST, MAP};
use super::limits::{Limits, refused};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, Output, State, Value, filters, functions, tests};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::io::{self, Write};
use std::sync::Arc;

/// Adds everything to an empty environment; `limits` is charged for every value that is made.
pub(super) fn add(environment: &mut Environment<'_>, limits: &Arc<Limits>) {
    for (name, test) in [
        ("defined", Value::from_function(tests::is_defined)),
        ("undefined", Value::from_function(tests::is_undefined)),
        ("none", Value::from_function(tests::is_none)),
        ("boolean", Value::from_function(tests::is_boolean)),
        ("true", Value::from_function(tests::is_true)),
        ("false", Value::from_function(tests::is_false)),
        ("number", Value::from_function(tests::is_number)),
        ("integer", Value::from_function(tests::is_integer)),
        ("float", Value::from_function(tests::is_float)),
        ("string", Value::from_function(tests::is_string)),
        ("sequence", Value::from_function(tests::is_sequence)),
        ("iterable", Value::from_function(tests::is_iterable)),
        ("mapping", Value::from_function(tests::is_mapping)),
        ("odd", Value::from_function(tests::is_odd)),
        ("even", Value::from_function(tests::is_even)),
        ("in", Value::from_function(tests::is_in)),
        ("eq", Value::from_function(tests::is_eq)),
        ("equalto", Value::from_function(tests::is_eq)),
        ("ne", Value::from_function(tests::is_ne)),
    ] {
        environment.add_test(name, move |state: &State, args: Rest<Value>| test.call(state, &args));
    }
    for (name, filter) in [
        ("abs", Value::from_function(filters::abs)),
        ("bool", Value::from_function(filters::bool)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("count", Value::from_function(filters::length)),
        ("d", Value::from_function(filters::default)),
        ("default", Value::from_function(filters::default)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("first", Value::from_function(filters::first)),
        ("float", Value::from_function(filters::float)),
        ("int", Value::from_function(filters::int)),
        ("items", Value::from_function(filters::items)),
        ("last", Value::from_function(filters::last)),
        ("length", Value::from_function(filters::length)),
        ("list", Value::from_function(filters::list)),
        ("lower", Value::from_function(filters::lower)),
        ("map", Value::from_function(filters::map)),
        ("max", Value::from_function(filters::max)),
        ("min", Value::from_function(filters::min)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("reverse", Value::from_function(filters::reverse)),
        ("round", Value::from_function(filters::round)),
        ("safe", Value::from_function(filters::safe)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("sort", Value::from_function(filters::sort)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("unique", Value::from_function(filters::unique)),
        ("upper", Value::from_function(filters::upper)),
    ] {
        let limits = limits.clone();
        environment.add_filter(name, move |state: &State, args: Rest<Value>| {
            filter.call(state, &args).and_then(|value| limits.made(value))
        });
    }
    let made = limits.clone();
    environment.add_filter("string", move |value: Value| made.made(text(&value)?.into()));
    let made = limits.clone();
    environment.add_filter("tojson", move |value: Value, options: Kwargs| to_json(&value, &options, &made));
    let made = limits.clone();
    environment.add_filter("replace", move |text: String, from: String, to: String| replaced(&text, &from, &to, &made));
    let made = limits.clone();
    environment.add_filter("join", move |list: Value, between: Option<String>| {
        joined(&list, &between.unwrap_or_default(), &made)
    });

    let made = limits.clone();
    environment.add_function(CONCAT, move |left: Value, right: Value| concat(&text(&left)?, &text(&right)?, &made));
    let made = limits.clone();
    environment.add_function(ADD, move |left: Value, right: Value| sum(&left, &right, &made));
    let made = limits.clone();
    environment.add_function(LIST, move |items: Rest<Value>| made.made(Value::from(items.0)));
    let made = limits.clone();
    environment.add_function(MAP, move |items: Rest<Value>| {
        let pairs = items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        made.made(pairs.collect())
    });
    environment.add_function(HOLD, hold);
    environment.add_function("namespace", |start: Kwargs| {
        start.args().try_for_each(|name| hold(start.get(name)?).map(drop))?;
        functions::namespace(Some(start.into()))
    });
    environment.add_function("range", functions::range);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(refused(format!("the template refuses the prompt: {message}")))
    });
    environment.add_function("strftime_now", |_: Rest<Value>| -> Result<Value, Error> {
        Err(refused("it asks for the time, so that the same seed would draw another picture every day"))
    });
    let written = limits.clone();
    environment.set_formatter(move |out: &mut Output, _: &State, value: &Value| {
        let text = text(value)?;
        written.write(text.len())?;
        out.write_str(&text).map_err(Error::from)
    });
}

/// The text of a value as Python prints it.
///
/// # Errors
/// For lists and mappings, which Python prints in its own way.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::None => Ok("None".to_owned()),
        ValueKind::Bool => Ok(if value.is_true() { "True" } else { "False" }.to_owned()),
        ValueKind::String | ValueKind::Number => Ok(value.to_string()),
        kind => Err(refused(format!("it prints a {kind} where only text is supported"))),
    }
}

fn concat(left: &str, right: &str, limits: &Limits) -> Result<Value, Error> {
    limits.make(left.len() + right.len())?;
    Ok([left, right].concat().into())
}

fn sum(left: &Value, right: &Value, limits: &Limits) -> Result<Value, Error> {
    let list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        return concat(left, right, limits);
    }
    if list(left) && list(right) {
        return limits.made(Value::from(left.try_iter()?.chain(right.try_iter()?).collect::<Vec<_>>()));
    }
    let integers = left.as_i64().zip(right.as_i64()).filter(|_| left.is_integer() && right.is_integer());
    if let Some(sum) = integers.and_then(|(left, right)| left.checked_add(right)) {
        return Ok(sum.into());
    }
    match (f64::try_from(left.clone()), f64::try_from(right.clone())) {
        (Ok(left), Ok(right)) => Ok((left + right).into()),
        _ => Err(refused(format!("it adds a {} and a {}", left.kind(), right.kind()))),
    }
}

/// # Errors
/// For a mapping: a namespace that holds itself would never end.
fn hold(value: Value) -> Result<Value, Error> {
    fn flat(value: &Value) -> bool {
        match value.kind() {
            ValueKind::Map | ValueKind::Plain => false,
            ValueKind::Seq | ValueKind::Iterable => {
                value.try_iter().is_ok_and(|mut items| items.all(|item| flat(&item)))
            }
            _ => true,
        }
    }
    if !flat(&value) {
        return Err(refused("a namespace can hold text, numbers and lists only"));
    }
    Ok(value)
}

pub(super) fn replaced(text: &str, from: &str, to: &str, limits: &Limits) -> Result<Value, Error> {
    let grown = text.matches(from).count().saturating_mul(to.len());
    limits.make(text.len().saturating_add(grown))?;
    Ok(text.replace(from, to).into())
}

pub(super) fn joined(list: &Value, between: &str, limits: &Limits) -> Result<Value, Error> {
    let mut joined = String::new();
    for (i, item) in list.try_iter()?.enumerate() {
        let item = text(&item)?;
        let between = if i == 0 { "" } else { between };
        limits.make(between.len() + item.len())?;
        joined.push_str(between);
        joined.push_str(&item);
    }
    limits.made(joined.into())
}

/// JSON as Python's `json.dumps` writes it: spaces after commas and colons, no escapes beyond
/// ASCII's.
fn to_json(value: &Value, options: &Kwargs, limits: &Limits) -> Result<Value, Error> {
    struct Python;
    impl Formatter for Python {
        fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
            out.write_all(if first { b"" } else { b", " })
        }

        fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
            out.write_all(if first { b"" } else { b", " })
        }

        fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
            out.write_all(b": ")
        }
    }

    let value = limits.made(value.clone())?;
    let indent: Option<usize> = options.get("indent")?;
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut json = Vec::new();
    let written = match indent {
        Some(spaces @ 0..=16) => {
            let spaces = " ".repeat(spaces);
            value.serialize(&mut Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(spaces.as_bytes())))
        }
        Some(spaces) => return Err(refused(format!("it indents JSON by {spaces} spaces"))),
        None => value.serialize(&mut Serializer::with_formatter(&mut json, Python)),
    };
    written.map_err(|error| refused(error.to_string()))?;
    limits.made(String::from_utf8_lossy(&json).into_owned().into())
}
