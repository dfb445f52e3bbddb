//! Reading a TOML file of bounded size, with errors that name line and key.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;

use super::error::{SettingsError, example_of};
use crate::Error;

/// A longer file is not one that a person wrote, and its rules would be gone through for every connection.
const MAX_BYTES: u64 = 1 << 20;

/// A file's text, and where things are in it.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    /// Reads `path`; nothing if there is no such file. With `follows_links` off a symbolic link is an error.
    pub(crate) fn read(path: &Path, follows_links: bool) -> Result<Option<Self>, Error> {
        let unreadable = |source: io::Error| Error::path("read the settings in", path, source);
        // Without NONBLOCK a named pipe would be waited on for ever.
        let mut flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        if !follows_links {
            flags |= OFlags::NOFOLLOW;
        }
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(unreadable(error)),
        };
        let source = Self { path: path.into(), text: String::new() };
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(source.wrong_file("it is not a regular file").into());
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(source.wrong_file("it is longer than 1 MiB; settings are a few lines").into());
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            SettingsError { line: Some(line), ..source.wrong_file("it is not UTF-8 text") }
        })?;
        Ok(Some(Self { text, ..source }))
    }

    /// The text as a `T`.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        let syntax = |error: &toml::de::Error| SettingsError {
            line: error.span().map(|span| self.line(&span)),
            ..self.wrong_file(&format!("it is not TOML: {}", one_line(error.message())))
        };
        let document = toml::de::Deserializer::parse(&self.text).map_err(|error| syntax(&error))?;
        serde_path_to_error::deserialize(document).map_err(|error| {
            let (path, error) = (error.path().to_string(), error.into_inner());
            // `Spanned` is a struct of its own to serde, with field names that are nobody's business.
            let key = path.split(".$__serde").next().unwrap_or_default();
            let key = if key == "." { String::new() } else { key.to_owned() };
            let line = error.span().map(|span| self.line(&span));
            let example = example_of(&key);
            SettingsError { path: self.path.clone(), line, key, problem: one_line(error.message()), example }
        })
    }

    /// What is wrong with the value of `key` at `span`.
    pub(crate) fn wrong(&self, span: &Range<usize>, key: &str, problem: impl Into<String>) -> SettingsError {
        SettingsError {
            path: self.path.clone(),
            line: Some(self.line(span)),
            key: key.to_owned(),
            problem: problem.into(),
            example: example_of(key),
        }
    }

    /// The same where the problem brings an example of its own.
    pub(crate) fn wrong_in_words(&self, span: &Range<usize>, key: &str, problem: String) -> SettingsError {
        SettingsError { example: "", ..self.wrong(span, key, problem) }
    }

    /// The line on which `span` begins, counted from one.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// What is wrong with the file as a whole.
    pub(crate) fn wrong_file(&self, problem: &str) -> SettingsError {
        SettingsError {
            path: self.path.clone(),
            line: None,
            key: String::new(),
            problem: problem.to_owned(),
            example: "",
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join("; ")
}
