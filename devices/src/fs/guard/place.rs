//! Guarded places as a tree of names.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Component;

use super::{Guarded, Rule};

/// Most rules of a share.
const MAX_RULES: usize = 4096;
const ROOT: u32 = 1;

/// Where a node is as far as rules care; the default is nowhere near one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::fs) struct Position {
    /// Number of the step in [`Places`], 0 when no guarded place is here or below.
    step: u32,
    /// The rule that holds here.
    rule: Option<Rule>,
}

impl Position {
    pub(in crate::fs) fn is_hidden(self) -> bool {
        self.rule == Some(Rule::Hide)
    }

    /// A rule holds here: nothing of it changes.
    pub(in crate::fs) fn is_guarded(self) -> bool {
        self.rule.is_some()
    }

    /// What is here stays here under this name: it is guarded, or the way to something that is.
    pub(in crate::fs) fn is_fixed(self) -> bool {
        self.is_guarded() || self.step != 0
    }

    pub(super) fn rule(self) -> Option<Rule> {
        self.rule
    }

    /// One file in two positions: the stricter rule counts, and the way that is known.
    pub(super) fn joined(self, other: Self) -> Self {
        Self { step: if self.step == 0 { other.step } else { self.step }, rule: self.rule.max(other.rule) }
    }

    pub(super) fn with_rule(self, rule: Option<Rule>) -> Self {
        Self { rule: self.rule.max(rule), ..self }
    }
}

#[derive(Debug, Default)]
struct Step {
    rule: Option<Rule>,
    children: HashMap<Vec<u8>, u32>,
}

/// The tree.
#[derive(Debug)]
pub(super) struct Places {
    /// By number; the first is nowhere, the second the share's root.
    steps: Vec<Step>,
}

impl Places {
    pub(super) fn new(guarded: &[Guarded]) -> io::Result<Self> {
        if guarded.len() > MAX_RULES {
            return Err(invalid(format!("{} guarded paths are more than {MAX_RULES}", guarded.len())));
        }
        let mut places = Self { steps: vec![Step::default(), Step::default()] };
        for Guarded { path, rule } in guarded {
            let mut at = ROOT;
            for component in path.components() {
                let Component::Normal(name) = component else {
                    return Err(invalid(format!("The guarded path {path:?} is not a path within its share")));
                };
                at = places.step(at, name.as_bytes());
            }
            if let Some(step) = places.get_mut(at) {
                step.rule = step.rule.max(Some(*rule));
            }
        }
        Ok(places)
    }

    pub(super) fn root(&self) -> Position {
        Position { step: ROOT, rule: self.get(ROOT).and_then(|step| step.rule) }
    }

    pub(super) fn child(&self, parent: Position, name: &[u8]) -> Position {
        let children = self.get(parent.step).map(|step| &step.children).filter(|children| !children.is_empty());
        let step = children.and_then(|children| children.get(&folded(name))).copied().unwrap_or_default();
        Position { step, rule: parent.rule.max(self.get(step).and_then(|step| step.rule)) }
    }

    fn get(&self, number: u32) -> Option<&Step> {
        usize::try_from(number).ok().and_then(|number| self.steps.get(number))
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Step> {
        usize::try_from(number).ok().and_then(|number| self.steps.get_mut(number))
    }

    fn step(&mut self, parent: u32, name: &[u8]) -> u32 {
        let next = u32::try_from(self.steps.len()).unwrap_or_default();
        let Some(step) = self.get_mut(parent) else { return 0 };
        let number = *step.children.entry(folded(name)).or_insert(next);
        if number == next {
            self.steps.push(Step::default());
        }
        number
    }
}

/// A name as all its spellings have it.
fn folded(name: &[u8]) -> Vec<u8> {
    match str::from_utf8(name) {
        // Up and down again: some letters meet only in upper case.
        Ok(text) => text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect::<String>().into(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
