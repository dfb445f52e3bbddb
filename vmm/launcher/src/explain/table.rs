//! A table of destinations and the verdicts they must get.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::question::Question;
use crate::Error;
use crate::settings::Source;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    allow: Vec<Spanned<String>>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// The destination.
    pub question: Question,
    /// Whether it must be allowed.
    pub allow: bool,
    /// Where it is written.
    pub line: usize,
}

/// The table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestTable {
    /// In the order of the file's lines.
    pub expectations: Vec<Expectation>,
}

impl TestTable {
    /// Reads `allow = [...]` and `deny = [...]`, lists of destinations.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let missing = || Error::path("read", path, rustix::io::Errno::NOENT);
        let source = Source::read(path, true)?.ok_or_else(missing)?;
        let document: Document = source.parse()?;
        let mut expectations = Vec::new();
        for (allow, key, texts) in [(true, "allow", &document.allow), (false, "deny", &document.deny)] {
            for text in texts {
                let question = text
                    .get_ref()
                    .parse()
                    .map_err(|bad: super::BadQuestion| source.wrong_in_words(&text.span(), key, bad.to_string()))?;
                expectations.push(Expectation { question, allow, line: source.line(&text.span()) });
            }
        }
        if expectations.is_empty() {
            let problem =
                "it expects nothing; write lists: allow = [\"https://api.example.com\"] and deny = [\"10.0.0.5:22\"]";
            return Err(source.wrong_file(problem).into());
        }
        expectations.sort_by_key(|expectation| expectation.line);
        Ok(Self { expectations })
    }
}
