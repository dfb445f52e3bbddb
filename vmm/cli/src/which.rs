//! Which VM the user means.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;
use launcher::{Card, Dirs, Error};

#[derive(Debug, Args)]
pub struct WhichArgs {
    /// VM, by its name or the beginning of it, its project's path, or the name of the project's folder
    /// [default: that of the current folder, else the only one]
    #[arg(value_name = "VM")]
    pub vm: Option<OsString>,
}

/// The one running VM that is meant.
pub fn running(dirs: &Dirs, words: Option<&OsStr>) -> Result<Card, Error> {
    let cards = launcher::running(dirs)?;
    match launcher::pick(&cards, words).as_slice() {
        [card] => Ok((*card).clone()),
        [] => Err(none(words, "is running", &cards)),
        several => Err(ambiguous(words, several)),
    }
}

/// The VM that is meant, running or not, with the folder of its files; the last one of several of a project.
pub fn recorded(dirs: &Dirs, words: Option<&OsStr>) -> Result<(Card, PathBuf), Error> {
    let found = launcher::recorded(dirs)?;
    let cards: Vec<Card> = found.iter().map(|(card, _)| card.clone()).collect();
    let picked = launcher::pick(&cards, words);
    let project = |card: &Card| card.project.clone();
    match picked.split_first() {
        Some((first, others)) if others.iter().all(|other| project(other) == project(first)) => {
            let folder = found.iter().find(|(card, _)| card.id == first.id).map(|(_, folder)| folder.clone());
            Ok(((*first).clone(), folder.unwrap_or_default()))
        }
        Some(_) => Err(ambiguous(words, &picked)),
        // One that tries nothing leaves nothing.
        None => Err(none(words, "has tried to reach anything", &cards)),
    }
}

fn none(words: Option<&OsStr>, doing: &str, cards: &[Card]) -> Error {
    let which = words.map(|words| format!(" {}", words.display())).unwrap_or_default();
    let others = match cards {
        [] => "; `vmm run -- COMMAND` starts one".to_owned(),
        cards => format!("; there are\n{}", list(cards.iter())),
    };
    Error::Which { problem: format!("No VM{which} {doing}{others}") }
}

fn ambiguous(words: Option<&OsStr>, cards: &[&Card]) -> Error {
    let which = words.map_or_else(|| "It is not clear which VM".into(), |words| format!("{} may be", words.display()));
    Error::Which { problem: format!("{which}; name one of\n{}", list(cards.iter().copied())) }
}

fn list<'a>(cards: impl Iterator<Item = &'a Card>) -> String {
    cards.map(|card| format!("     {}  {}", card.id, card.project.display())).collect::<Vec<_>>().join("\n")
}
