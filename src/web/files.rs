//! A model's files, provided by the page's script.

use crate::error::{Error, Result};
use crate::weights::{BoxFuture, ModelFolder, RemoteFiles};
use bytes::Bytes;
use js_sys::{Array, JsString, Promise, Uint8Array};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wasm_bindgen::prelude::{JsCast, JsValue, wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/**
 * A model's files: a diffusers folder, single files, or both. A path in `singles` is that of a
 * single file; all others are relative to the folder, with `/` between their parts.
 */
export interface ModelFiles {
  /** The folder's name, which the model goes by; empty without a folder. */
  name: string;
  /**
   * Single files, which replace parts of the folder: safetensors and GGUF files, tokenizer.json,
   * configurations.
   */
  singles: string[];
  /** The length of a file in bytes; `undefined` when there is no such file. */
  size(path: string): Promise<number | undefined>;
  /** Bytes `start` up to `end` of a file. Rejects with an `Error` whose message is one sentence. */
  read(path: string, start: number, end: number): Promise<Uint8Array>;
  /** The names of the files in a folder, for messages. */
  list?(folder: string): Promise<string[]>;
}
"#;

#[wasm_bindgen]
extern "C" {
    /// A model's files; the module's types document this interface.
    #[wasm_bindgen(typescript_type = "ModelFiles")]
    #[derive(Debug)]
    pub type ModelFiles;

    #[wasm_bindgen(method, getter)]
    fn name(this: &ModelFiles) -> String;

    #[wasm_bindgen(method, getter)]
    fn singles(this: &ModelFiles) -> Vec<String>;

    #[wasm_bindgen(method, catch)]
    fn size(this: &ModelFiles, path: &str) -> std::result::Result<Promise, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn read(this: &ModelFiles, path: &str, start: f64, end: f64) -> std::result::Result<Promise, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn list(this: &ModelFiles, folder: &str) -> std::result::Result<Promise, JsValue>;
}

/// The script's files, as the library reads them.
pub(super) struct Files {
    files: ModelFiles,
    name: String,
    singles: Vec<String>,
}

impl Files {
    fn new(files: ModelFiles) -> Self {
        Self { name: files.name(), singles: files.singles(), files }
    }

    /// The model that the script's files make.
    ///
    /// # Errors
    /// Errors of [`ModelFolder::remote`] and [`ModelFolder::from_files`].
    pub(super) async fn model(files: ModelFiles) -> Result<ModelFolder> {
        let files = Arc::new(Self::new(files));
        let folder = match files.name.is_empty() {
            true => None,
            false => Some(ModelFolder::remote(&files.name, files.clone()).await?),
        };
        match (folder, files.singles.is_empty()) {
            (Some(folder), true) => Ok(folder),
            (folder, _) => ModelFolder::from_files(folder, files.clone(), &files.singles).await,
        }
    }

    /// The path of a file, for messages.
    fn path(&self, path: &str) -> PathBuf {
        match self.singles.iter().any(|single| single == path) {
            true => PathBuf::from(path),
            false => Path::new(&self.name).join(path),
        }
    }

    /// The script's answer, or an error with the message that it threw.
    async fn answer(&self, path: &str, promise: std::result::Result<Promise, JsValue>) -> Result<JsValue> {
        let answer = match promise {
            Ok(promise) => JsFuture::from(promise).await,
            Err(thrown) => Err(thrown),
        };
        answer.map_err(|thrown| {
            let error = thrown.dyn_ref::<js_sys::Error>();
            let sentence = error.map_or_else(|| format!("it cannot be read: {thrown:?}"), |e| e.message().into());
            Error::file(&self.path(path), sentence)
        })
    }

    fn wrong(&self, path: &str, what: &str) -> Error {
        Error::file(&self.path(path), format!("the page answered with something else than {what}"))
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("files of the page")
    }
}

impl RemoteFiles for Files {
    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Option<u64>> {
        Box::pin(async move {
            let size = self.answer(path, self.files.size(path)).await?;
            if size.is_undefined() || size.is_null() {
                return Ok(None);
            }
            match size.as_f64() {
                Some(size) if size >= 0.0 => Ok(Some(size as u64)),
                _ => Err(self.wrong(path, "a number of bytes")),
            }
        })
    }

    fn read<'a>(&'a self, path: &'a str, range: Range<u64>) -> BoxFuture<'a, Bytes> {
        Box::pin(async move {
            let promise = self.files.read(path, range.start as f64, range.end as f64);
            let bytes = self.answer(path, promise).await?;
            let bytes = bytes.dyn_ref::<Uint8Array>().ok_or_else(|| self.wrong(path, "bytes"))?;
            Ok(bytes.to_vec().into())
        })
    }

    fn list<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            let names = self.answer(folder, self.files.list(folder)).await?;
            let names = names.dyn_ref::<Array>().ok_or_else(|| self.wrong(folder, "names"))?;
            Ok(names.iter().filter_map(|name| name.dyn_ref::<JsString>().map(String::from)).collect())
        })
    }
}
