//! A writer of GGUF files, right or damaged. `tests/gguf_tokenizer.rs` holds it against the bytes
//! that the Python package `gguf` writes.

/// The ids of value types and of tensor types that tests name.
pub(crate) const TEXT: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const F32: u32 = 0;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    /// The id of the items' type, and the items.
    Array(u32, Vec<Value>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// An array of texts.
    pub(crate) fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Self {
        Self::Array(TEXT, items.into_iter().map(|item| Self::Text(item.to_string())).collect())
    }

    /// An array of I32.
    pub(crate) fn numbers(items: impl IntoIterator<Item = i32>) -> Self {
        Self::Array(5, items.into_iter().map(Self::I32).collect())
    }

    fn id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => TEXT,
            Self::Array(..) => ARRAY,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }
}

/// A tensor: its name, its sizes innermost first, the id of its type, and its data.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub name: String,
    pub sizes: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
}

impl Tensor {
    pub(crate) fn new(name: &str, sizes: &[u64], kind: u32, bytes: usize) -> Self {
        let data = (0..bytes).map(|i| (i * 37) as u8).collect();
        Self { name: name.to_owned(), sizes: sizes.to_vec(), kind, data }
    }
}

/// The contents of a file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub version: u32,
    pub keys: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
    pub alignment: usize,
}

/// A number of the header that says how the rest is read: a length, a count, a type, a size or an
/// offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub at: usize,
    pub width: usize,
}

/// A file that is being written.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

impl Out {
    fn field(&mut self, number: &[u8]) {
        self.fields.push(Field { at: self.bytes.len(), width: number.len() });
        self.bytes.extend(number);
    }

    fn u32(&mut self, number: u32) {
        self.field(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.field(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.bytes.extend(text.as_bytes());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::U8(v) => self.bytes.extend(v.to_le_bytes()),
            Value::I8(v) => self.bytes.extend(v.to_le_bytes()),
            Value::U16(v) => self.bytes.extend(v.to_le_bytes()),
            Value::I16(v) => self.bytes.extend(v.to_le_bytes()),
            Value::U32(v) => self.bytes.extend(v.to_le_bytes()),
            Value::I32(v) => self.bytes.extend(v.to_le_bytes()),
            Value::F32(v) => self.bytes.extend(v.to_le_bytes()),
            Value::U64(v) => self.bytes.extend(v.to_le_bytes()),
            Value::I64(v) => self.bytes.extend(v.to_le_bytes()),
            Value::F64(v) => self.bytes.extend(v.to_le_bytes()),
            Value::Bool(v) => self.bytes.push(u8::from(*v)),
            Value::Text(v) => self.text(v),
            Value::Array(kind, items) => {
                self.u32(*kind);
                self.u64(items.len() as u64);
                items.iter().for_each(|item| self.value(item));
            }
        }
    }

    fn pad(&mut self, alignment: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
    }
}

impl File {
    pub(crate) fn new(keys: Vec<(&str, Value)>, tensors: Vec<Tensor>) -> Self {
        let keys = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Self { version: 3, keys, tensors, alignment: 32 }
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.write().0
    }

    /// The file's bytes, and the fields of its header.
    pub(crate) fn write(&self) -> (Vec<u8>, Vec<Field>) {
        let mut out = Out { bytes: b"GGUF".to_vec(), fields: Vec::new() };
        out.u32(self.version);
        out.u64(self.tensors.len() as u64);
        out.u64(self.keys.len() as u64);
        for (key, value) in &self.keys {
            out.text(key);
            out.u32(value.id());
            out.value(value);
        }
        let mut offset = 0;
        for Tensor { name, sizes, kind, data } in &self.tensors {
            out.text(name);
            out.u32(sizes.len() as u32);
            sizes.iter().for_each(|&size| out.u64(size));
            out.u32(*kind);
            out.u64(offset);
            offset += (data.len() as u64).next_multiple_of(self.alignment as u64);
        }
        out.pad(self.alignment);
        for Tensor { data, .. } in &self.tensors {
            out.bytes.extend(data);
            out.pad(self.alignment);
        }
        (out.bytes, out.fields)
    }
}

/// The metadata of a text encoder with the tokenizer of a `tokenizer.json`, as llama.cpp's
/// converter stores it: fillers up to `rows`, and added tokens by their type.
pub(crate) fn tokenizer(layout: &serde_json::Value, rows: usize) -> Vec<(&'static str, Value)> {
    let mut texts: Vec<(String, i32)> = (0..rows).map(|id| (format!("[PAD{id}]"), 5)).collect();
    for (text, id) in layout["model"]["vocab"].as_object().unwrap() {
        texts[id.as_u64().unwrap() as usize] = (text.clone(), 1);
    }
    let mut ids = std::collections::BTreeMap::new();
    for token in layout["added_tokens"].as_array().unwrap() {
        let (text, id) = (token["content"].as_str().unwrap(), token["id"].as_u64().unwrap());
        let control = token["special"] == true || (text.starts_with("<|") && text.ends_with("|>"));
        texts[id as usize] = (text.to_owned(), if control { 3 } else { 4 });
        ids.insert(text, Value::U32(id as u32));
    }
    let merges = layout["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge.as_array() {
        Some(pair) => pair.iter().map(|token| token.as_str().unwrap()).collect::<Vec<_>>().join(" "),
        None => merge.as_str().unwrap().to_owned(),
    });
    vec![
        ("general.architecture", Value::Text("qwen3".into())),
        ("tokenizer.ggml.model", Value::Text("gpt2".into())),
        ("tokenizer.ggml.pre", Value::Text("qwen2".into())),
        ("tokenizer.ggml.tokens", Value::texts(texts.iter().map(|(text, _)| text))),
        ("tokenizer.ggml.token_type", Value::numbers(texts.iter().map(|(_, kind)| *kind))),
        ("tokenizer.ggml.merges", Value::texts(merges)),
        ("tokenizer.ggml.eos_token_id", ids["<|im_end|>"].clone()),
        ("tokenizer.ggml.padding_token_id", ids["<|endoftext|>"].clone()),
        ("tokenizer.ggml.bos_token_id", ids["<|endoftext|>"].clone()),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
    ]
}
