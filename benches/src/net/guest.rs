//! A guest as the comparison sees it: a connection on which it takes commands.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// The longest command is the opening of ten thousand connections.
const PATIENCE: Duration = Duration::from_secs(180);

/// A measurement that came to nothing; the guest goes on.
#[derive(Debug)]
pub struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

#[derive(Debug)]
pub struct Guest {
    commands: TcpStream,
    answers: BufReader<TcpStream>,
}

impl Guest {
    /// Waits until every one of `arms` has called, in whatever order.
    pub fn gather(listener: &TcpListener, arms: &[String]) -> anyhow::Result<BTreeMap<String, Self>> {
        let mut guests = BTreeMap::new();
        while guests.len() < arms.len() {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answers = BufReader::new(stream.try_clone()?);
            let mut name = String::new();
            answers.read_line(&mut name)?;
            let name = name.trim().to_owned();
            if !arms.contains(&name) {
                bail!("a guest that nobody asked for: {name:?}");
            }
            guests.insert(name, Self { commands: stream, answers });
        }
        Ok(guests)
    }

    /// Gives a command and waits for its numbers.
    pub fn ask(&mut self, command: &str) -> anyhow::Result<Vec<f64>> {
        writeln!(self.commands, "{command}")?;
        let mut line = String::new();
        if self.answers.read_line(&mut line).with_context(|| format!("no answer to {command:?}"))? == 0 {
            bail!("the guest went away at {command:?}");
        }
        if let Some(error) = line.strip_prefix('!') {
            return Err(Refusal(error.trim().to_owned()).into());
        }
        line.split_whitespace().map(|word| word.parse().context("an answer that is no number")).collect()
    }
}
