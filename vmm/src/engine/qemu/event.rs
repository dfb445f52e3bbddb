//! QEMU's side of the story: events of the QEMU machine protocol, one JSON object per line.
//!
//! QEMU may have fallen to its guest, so lines are bounded and what does not parse is passed over.

use serde_json::Value;

/// Leaves the negotiation, after which events are sent. It may be written before QEMU has started: it is answered when
/// QEMU begins to serve events, which is when the CPUs run.
pub(super) const HELLO: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

/// QEMU's lines are a few hundred bytes.
const MAX_LINE: usize = 64 << 10;

/// What a line says that matters to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The answer to [`HELLO`].
    Running,
    /// The machine stops, by QEMU's word for why.
    Shutdown(String),
}

/// Cuts what is read into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    /// The rest of a line that was too long is passed over.
    skipping: bool,
}

impl Lines {
    /// Takes what was read; gives the events in it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            self.append(piece);
            if pieces.peek().is_some() {
                events.extend(self.finish());
            }
        }
        events
    }

    fn append(&mut self, piece: &[u8]) {
        if self.partial.len() + piece.len() > MAX_LINE {
            self.skipping = true;
            self.partial.clear();
        }
        if !self.skipping {
            self.partial.extend_from_slice(piece);
        }
    }

    fn finish(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.partial);
        (!std::mem::take(&mut self.skipping)).then(|| parse(&line)).flatten()
    }
}

fn parse(line: &[u8]) -> Option<Event> {
    let message: Value = serde_json::from_slice(line).ok()?;
    if message.get("return").is_some() {
        return Some(Event::Running);
    }
    let name = message.get("event")?.as_str()?;
    let reason = message.pointer("/data/reason").and_then(Value::as_str).unwrap_or_default();
    (name == "SHUTDOWN").then(|| Event::Shutdown(reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHUTDOWN: &[u8] = br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#;

    #[test]
    fn conversation_is_understood_however_it_is_cut() {
        let greeting = br#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;
        let text = [&greeting[..], b"\r\n{\"return\": {}}\r\n", SHUTDOWN, b"\r\n"].concat();
        let expected = [Event::Running, Event::Shutdown("guest-reset".into())];
        for size in [1, 7, text.len()] {
            let mut lines = Lines::default();
            let events: Vec<_> = text.chunks(size).flat_map(|chunk| lines.push(chunk)).collect();
            assert_eq!(events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn nonsense_is_passed_over() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"not json\n[1]\n{\"event\": 7}\n{\"event\": \"STOP\"}\n\n"), []);
    }

    #[test]
    fn endless_line_takes_no_memory_and_the_next_one_counts() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            assert_eq!(lines.push(&vec![b'x'; MAX_LINE / 3]), []);
            assert!(lines.partial.len() <= MAX_LINE);
        }
        assert_eq!(lines.push(b"\n"), []);
        assert_eq!(lines.push(&[SHUTDOWN, b"\n"].concat()), [Event::Shutdown("guest-reset".into())]);
    }
}
