//! Lines of bounded length on a stream.

use std::io::{self, BufRead, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a line of at most `max` bytes and what it says; `None` at the end of the stream.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl BufRead, max: usize) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    loop {
        let piece = match from.fill_buf() {
            Ok([]) if line.is_empty() => return Ok(None),
            Ok([]) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = piece.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(piece.len(), |end| end + 1);
        if line.len() + count > max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "A line is longer than allowed"));
        }
        line.extend(piece.iter().take(count));
        from.consume(count);
        if end.is_some() {
            return Ok(Some(serde_json::from_slice(&line)?));
        }
    }
}

/// Writes a line.
pub(super) fn send(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_must_end() {
        let mut stream = &b"1\n22\n333\n4"[..];
        assert_eq!(receive::<u32>(&mut stream, 3).unwrap(), Some(1));
        assert_eq!(receive::<u32>(&mut stream, 3).unwrap(), Some(22));
        assert_eq!(receive::<u32>(&mut stream, 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut cut = &b"4"[..];
        assert_eq!(receive::<u32>(&mut cut, 3).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(receive::<u32>(&mut &b""[..], 3).unwrap(), None);
    }
}
