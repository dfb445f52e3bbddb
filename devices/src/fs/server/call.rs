//! One request while it is served.

use std::io::{Read, Write};

use rustix::io::Errno;
use virtio::{Reader, Writer};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::fs::wire::InHeader;

/// What the guest asks, and where the answer goes.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) header: InHeader,
    /// What follows the header.
    pub(super) input: Reader<'a>,
    /// Where the answer's contents go; nothing for requests without an answer.
    pub(super) out: Option<Writer<'a>>,
}

impl<'a> Call<'a> {
    /// Reads the header. The flag tells whether the request is as long as its header says.
    pub(super) fn read(mut input: Reader<'a>) -> Option<(Self, bool)> {
        let header: InHeader = get(&mut input).ok()?;
        let sent = size_of::<InHeader>() + input.available_bytes();
        // Extensions are never negotiated.
        let whole = usize::try_from(header.len) == Ok(sent) && header.extensions == 0;
        Some((Self { header, input, out: None }, whole))
    }

    /// The next fixed-size part of the request.
    pub(super) fn take<T: FromBytes + IntoBytes>(&mut self) -> Result<T, Errno> {
        get(&mut self.input)
    }

    /// Appends to the answer.
    pub(super) fn put<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<(), Errno> {
        put(self.out()?, value)
    }

    /// Where the answer's contents go.
    pub(super) fn out(&mut self) -> Result<&mut Writer<'a>, Errno> {
        self.out.as_mut().ok_or(Errno::INVAL)
    }

    /// Refuses, before anything is done, a request whose answer would not fit.
    pub(super) fn check_room(&self, bytes: usize) -> Result<(), Errno> {
        let room = self.out.as_ref().map_or(0, Writer::available_bytes);
        if room < bytes { Err(Errno::INVAL) } else { Ok(()) }
    }

    /// Bytes of contents written so far.
    pub(super) fn written(&self) -> usize {
        self.out.as_ref().map_or(0, Writer::bytes_written)
    }
}

fn get<T: FromBytes + IntoBytes>(input: &mut Reader<'_>) -> Result<T, Errno> {
    let mut value = T::new_zeroed();
    input.read_exact(value.as_mut_bytes()).map_err(|_| Errno::INVAL)?;
    Ok(value)
}

/// Writes a message; the guest left too little room if that fails.
pub(super) fn put<T: IntoBytes + Immutable>(out: &mut Writer<'_>, value: &T) -> Result<(), Errno> {
    out.write_all(value.as_bytes()).map_err(|_| Errno::INVAL)
}
