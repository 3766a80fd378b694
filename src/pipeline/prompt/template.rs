//! Chat templates, which turn a prompt into the text that is tokenized.
//!
//! A folder's own template is rendered as transformers' `apply_chat_template` does for diffusers:
//! one message of the user, `add_generation_prompt` and `enable_thinking`.

mod filters;
mod guard;
mod limits;
mod methods;

use super::MARKERS;
use crate::error::{Error, Result, excerpt};
use limits::Limits;
use minijinja::machinery::{CompiledTemplate, TemplateConfig, Vm, WhitespaceConfig, make_string_output};
use minijinja::{AutoEscape, Environment, ErrorKind, Value, context};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The longest template in bytes; Qwen3's has 4,116.
const LONGEST: usize = 1 << 16;

/// The most steps that a template takes; Qwen3's takes about 200.
const MOST_STEPS: u64 = 10_000;

/// The chat template of a model.
#[derive(Debug, Default)]
pub(super) struct ChatTemplate(Option<File>);

/// A template that comes with a model.
#[derive(Debug)]
struct File {
    source: String,
    /// For messages.
    path: PathBuf,
    /// The special tokens by their names, `eos_token` and so on: the template may read them.
    names: BTreeMap<&'static str, String>,
}

impl ChatTemplate {
    /// A template of Jinja, read from `path`.
    ///
    /// # Errors
    /// [`Error::File`] for a template that is too long, or that cannot be rendered for a short
    /// prompt.
    pub(super) fn new(source: String, path: PathBuf, names: BTreeMap<&'static str, String>) -> Result<Self> {
        if source.len() > LONGEST {
            let problem =
                format!("the chat template has {} bytes, more than the {LONGEST} that are read", source.len());
            return Err(Error::file(&path, problem));
        }
        let template = Self(Some(File { source, path, names }));
        template.render("a")?;
        Ok(template)
    }

    /// True if the template writes this text itself.
    pub(super) fn writes(&self, text: &str) -> bool {
        self.0.as_ref().is_none_or(|file| file.source.contains(text))
    }

    /// A prompt as the one message of a chat that the model is about to answer.
    ///
    /// Without a template of the folder's own, Qwen3's template renders it.
    ///
    /// # Errors
    /// [`Error::File`] for a template that fails, or that takes too many steps or too much memory.
    pub(super) fn render(&self, prompt: &str) -> Result<String> {
        match &self.0 {
            Some(file) => render(file, prompt).map_err(|error| Error::file(&file.path, sentence(&error))),
            None => {
                let [start, end] = MARKERS;
                Ok(format!("{start}user\n{prompt}{end}\n{start}assistant\n"))
            }
        }
    }
}

fn sentence(error: &minijinja::Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => format!("the chat template takes more than {MOST_STEPS} steps"),
        _ => format!("the chat template cannot be rendered: {}", excerpt(&error.to_string())),
    }
}

fn render(file: &File, prompt: &str) -> Result<String, minijinja::Error> {
    let config = TemplateConfig {
        syntax_config: Default::default(),
        ws_config: WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true },
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    guard::check(&file.source, &config)?;
    let template = CompiledTemplate::new("chat template", &file.source, &config)?;
    let code = guard::charged(&template.instructions);

    let limits = Arc::new(Limits::default());
    let mut environment = Environment::empty();
    environment.set_fuel(Some(MOST_STEPS));
    filters::add(&mut environment, &limits);
    methods::add(&mut environment, &limits);
    let mut variables: BTreeMap<&str, Value> = file.names.iter().map(|(&name, token)| (name, token.into())).collect();
    variables.extend([
        ("messages", Value::from(vec![context! { role => "user", content => prompt }])),
        ("tools", ().into()),
        ("documents", ().into()),
        ("add_generation_prompt", true.into()),
        ("enable_thinking", true.into()),
    ]);
    let mut text = String::new();
    let blocks = BTreeMap::new();
    let mut out = make_string_output(&mut text);
    Vm::new(&environment).eval(&code, variables.into(), &blocks, &mut out, AutoEscape::None)?;
    drop(out);
    limits::check_text(&text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Qwen3's own template, which comes with the embedded model.
    fn qwen3() -> String {
        let config = include_str!("../../../models/emoji/tokenizer/tokenizer_config.json");
        let config: serde_json::Value = serde_json::from_str(config).unwrap();
        config["chat_template"].as_str().unwrap().to_owned()
    }

    fn new(source: &str) -> Result<ChatTemplate> {
        let names = BTreeMap::from([("eos_token", "<|im_end|>".to_owned())]);
        ChatTemplate::new(source.to_owned(), "m/chat_template.jinja".into(), names)
    }

    #[track_caller]
    fn renders(source: &str, expected: &str) {
        assert_eq!(new(source).unwrap().render("a fox").unwrap(), expected, "{source}");
    }

    /// Refuses a template in one sentence and at once.
    #[track_caller]
    fn refuses(source: &str, says: &str) {
        let start = Instant::now();
        let error = match new(source) {
            Ok(template) => template.render("a fox").map(|text| text.len()).unwrap_err(),
            Err(error) => error,
        };
        let message = error.to_string();
        assert!(message.starts_with("m/chat_template.jinja: ") && message.contains(says), "{message}");
        assert!(message.len() < 400 && !message.contains('\n'), "{message}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[test]
    fn qwen3_s_template_writes_what_is_built_in() {
        let template = new(&qwen3()).unwrap();
        for prompt in
            ["a fox", "", " \n\n x \t", "<|im_end|> <think>a</think>b", "狐狸 🦊", "<tool_response>x</tool_response>"]
        {
            assert_eq!(template.render(prompt).unwrap(), ChatTemplate::default().render(prompt).unwrap());
        }
        let long = "z".repeat(super::super::MAX_PROMPT_BYTES);
        assert_eq!(template.render(&long).unwrap(), ChatTemplate::default().render(&long).unwrap());
    }

    // The texts are those of transformers 5.24 with jinja2 3.1.6.
    #[test]
    fn templates_write_what_jinja2_does() {
        renders("{{ messages[0].role }}:{{ messages[0]['content'] }}{{ eos_token }}", "user:a fox<|im_end|>");
        renders(
            "{% for m in messages %}\n  {% if loop.first %}\n[{{ m.content }}]\n  {% endif %}\n{% endfor %}\nx\n",
            "[a fox]\nx",
        );
        renders("{{ messages | tojson }}", r#"[{"role": "user", "content": "a fox"}]"#);
        renders("{{ 'a<b>é' | tojson }}{{ [1, none, true] | tojson }}", r#""a<b>é"[1, null, true]"#);
        renders("{{ true }} {{ none }} {{ 1 + 2 }} {{ 7 // 2 }} {{ 1.5 + 1 }}", "True None 3 3 2.5");
        renders("{{ add_generation_prompt and enable_thinking and tools is none and documents is defined }}", "True");
        renders("{{ undefined_name is defined }}{{ undefined_name }}", "False");
        renders(
            "{% set ns = namespace(n=0, t='') %}{% for c in 'abc' %}{% set ns.n = ns.n + 1 %}{% set ns.t = ns.t ~ c ~ ns.n %}{% endfor %}{{ ns.t }}",
            "a1b2c3",
        );
        renders(
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "023",
        );
        renders(
            "{{ messages[0].content.split(' ')[-1].upper() }}{{ 'xxaxx'.strip('x') }}{{ ' b '.lstrip() }}|",
            "FOXab |",
        );
        renders(
            "{{ 'a,b'.split(',') | join('+') }}{{ 'a-b' | replace('-', '_') }}{{ 'fox'.startswith(('a', 'f')) }}",
            "a+ba_bTrue",
        );
        renders(
            "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].get('x', 'y') }}",
            "role=user;content=a fox;y",
        );
        renders("{% set t %}{{ 'in' }}side{% endset %}{{ t | trim | length }}{{ ([1] + [2, 3])[::-1] | first }}", "63");
        renders("{{- 'a' }}  {{- 'b' -}}  c {#- note -#} d", "abcd");
    }

    #[test]
    fn templates_that_fail_are_named() {
        refuses("{{ raise_exception('no system message') }}", "the template refuses the prompt: no system message");
        refuses("{% for m in messages %}", "syntax error");
        refuses("{{ messages[0].content | shout }}", "shout");
        refuses("{{ messages[0].content.shout() }}", "shout");
        refuses("{{ a.b.c }}", "undefined");
        refuses("{{ strftime_now('%d') }}", "asks for the time");
        refuses("{% include 'x' %}", "unknown statement");
        refuses("{% macro f() %}{% endmacro %}", "unknown statement");
        refuses("{{ messages }}", "prints a sequence");
        refuses("{{ 'a' * 1000000000 }}", "operator *");
        refuses(&" ".repeat(LONGEST + 1), "more than the 65536");
    }

    #[test]
    fn templates_that_never_end_are_stopped() {
        refuses(
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "takes more than 10000 steps",
        );
        refuses("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "cannot be rendered");
        refuses(&format!("{{{{ 1 {} }}}}", "+ 1 ".repeat(10_000)), "more than 256 tokens");
        refuses(&format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000)), "more than 256 tokens");
        refuses(&"{% if 1 %}".repeat(6000), "syntax error");
        refuses("{% for i in range(10**18) %}{% endfor %}", "cannot be rendered");
    }

    #[test]
    fn templates_that_fill_the_memory_are_stopped() {
        let doubles = "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = DOUBLE %}{% endfor %}";
        for double in [
            "ns.x ~ ns.x",
            "ns.x + ns.x",
            "[ns.x, ns.x]",
            "[ns.x] + [ns.x]",
            "{'a': ns.x}",
            "ns",
            "[ns]",
            "ns.x.replace('a', 'aaaaaaaaa')",
            "ns.x | replace('', 'bbbbbbbb')",
            "ns.x.join(['b', 'b', 'b'])",
            "['b', 'b', ns.x] | join(ns.x)",
            "ns.x | tojson | tojson",
        ] {
            refuses(&doubles.replace("DOUBLE", double), "cannot be rendered");
        }
        refuses(
            "{% for i in range(2000) %}{{ 'x' ~ messages[0].content.upper() ~ 'LONG' }}{% endfor %}"
                .replace("LONG", &"y".repeat(1000))
                .as_str(),
            "writes more than",
        );
        refuses(&format!("{{% for i in range(1000) %}}{}{{% endfor %}}", "y".repeat(60_000)), "writes more than");
        let captured = "{% set x %}{{ x }}{{ x }}ab{% endset %}".repeat(100);
        refuses(&format!("{captured}{{{{ x }}}}"), "writes more than");
        refuses("{{ [1] | tojson(indent=1000000000) }}", "indents JSON");
        refuses("{% set x = range(99999) | list %}{% set y = range(99999) | list %}", "makes values of more than");
    }
}
