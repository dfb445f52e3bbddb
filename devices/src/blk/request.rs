//! One request, from the guest's bytes to the file operation (virtio 1.2, section 5.2.6).

use std::io;

use virtio::{Reader, Request, Writer};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::config::{MAX_DATA, MAX_DISCARD_SECTORS, MAX_RANGES, MAX_ZEROES_SECTORS};
use super::disk::{Disk, Range, SECTOR};

/// Bytes of a range in a discard or write-zeroes request.
const RANGE_BYTES: usize = 16;

/// Why a request is not carried out.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The driver asks for what cannot be: past the end, half a sector, writing to a read-only disk.
    Impossible,
    /// The driver asks for what was not offered.
    Unsupported,
    /// The host failed.
    Host(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl Refusal {
    fn status(&self) -> u32 {
        match self {
            Self::Impossible | Self::Host(_) => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        }
    }
}

/// What the driver negotiated that requests depend on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Negotiated {
    pub(super) flush: bool,
    pub(super) discard: bool,
    pub(super) write_zeroes: bool,
}

/// Serves requests of one disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Service<'a> {
    pub(super) disk: &'a Disk,
    pub(super) serial: &'a [u8],
    pub(super) negotiated: Negotiated,
}

/// How a request ended.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Bytes in the driver's buffers that are valid now.
    pub(super) written: u32,
    /// What went wrong on the host, to be logged.
    pub(super) error: Option<io::Error>,
}

impl Service<'_> {
    /// Carries a request out and writes its status. A request without room for a status gets none.
    pub(super) fn serve(self, request: &Request) -> Outcome {
        let mut data = request.writer();
        let room = data.available_bytes();
        let Some(mut status) = room.checked_sub(1).and_then(|room| data.split_at(room)) else {
            return Outcome { written: 0, error: None };
        };
        let result = self.carry_out(&mut request.reader(), &mut data);
        let code = result.as_ref().err().map_or(VIRTIO_BLK_S_OK, Refusal::status);
        // One byte into a buffer of one byte.
        let _ = status.write_obj(u8::try_from(code).unwrap_or(u8::MAX));
        let written = u32::try_from(data.bytes_written() + 1).unwrap_or(u32::MAX);
        match result {
            Err(Refusal::Host(error)) => Outcome { written, error: Some(error) },
            _ => Outcome { written, error: None },
        }
    }

    fn carry_out(self, request: &mut Reader<'_>, answer: &mut Writer<'_>) -> Result<(), Refusal> {
        let truncated = |_| Refusal::Impossible;
        let kind = u32::from_le(request.read_obj().map_err(truncated)?);
        let _priority: u32 = request.read_obj().map_err(truncated)?;
        let sector = u64::from_le(request.read_obj().map_err(truncated)?);
        match kind {
            VIRTIO_BLK_T_IN => Ok(self.disk.read(self.data(sector, answer.available_bytes())?, answer)?),
            VIRTIO_BLK_T_OUT => self.write(sector, request),
            VIRTIO_BLK_T_FLUSH => Ok(self.disk.flush()?),
            VIRTIO_BLK_T_GET_ID => self.identify(answer),
            VIRTIO_BLK_T_DISCARD if self.negotiated.discard => self.discard(request),
            VIRTIO_BLK_T_WRITE_ZEROES if self.negotiated.write_zeroes => self.write_zeroes(request),
            _ => Err(Refusal::Unsupported),
        }
    }

    fn write(self, sector: u64, request: &mut Reader<'_>) -> Result<(), Refusal> {
        self.check_writable()?;
        let range = self.data(sector, request.available_bytes())?;
        self.disk.write(range, request)?;
        self.write_through()
    }

    /// A driver that cannot flush expects writes to be permanent when they are answered.
    fn write_through(self) -> Result<(), Refusal> {
        if self.negotiated.flush { Ok(()) } else { Ok(self.disk.flush()?) }
    }

    fn identify(self, answer: &mut Writer<'_>) -> Result<(), Refusal> {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        for (to, from) in id.iter_mut().zip(self.serial) {
            *to = *from;
        }
        // A buffer that is too small gets as much as fits.
        let fits = id.len().min(answer.available_bytes());
        Ok(io::Write::write_all(answer, id.get(..fits).unwrap_or_default())?)
    }

    fn discard(self, request: &mut Reader<'_>) -> Result<(), Refusal> {
        for segment in self.segments(request, MAX_DISCARD_SECTORS, 0)? {
            self.disk.discard(segment.range)?;
        }
        self.write_through()
    }

    fn write_zeroes(self, request: &mut Reader<'_>) -> Result<(), Refusal> {
        for segment in self.segments(request, MAX_ZEROES_SECTORS, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)? {
            self.disk.zero(segment.range, segment.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0)?;
        }
        self.write_through()
    }

    /// The ranges of a discard or write-zeroes request, all of them checked before the first is touched.
    fn segments(self, request: &mut Reader<'_>, max_sectors: u32, flags: u32) -> Result<Vec<Segment>, Refusal> {
        self.check_writable()?;
        let bytes = request.available_bytes();
        let count = bytes / RANGE_BYTES;
        if !bytes.is_multiple_of(RANGE_BYTES) || !(1..=MAX_RANGES).contains(&count) {
            return Err(Refusal::Impossible);
        }
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            let segment = self.segment(request, max_sectors, flags)?;
            if !segment.range.is_empty() {
                segments.push(segment);
            }
        }
        Ok(segments)
    }

    fn segment(self, request: &mut Reader<'_>, max_sectors: u32, known_flags: u32) -> Result<Segment, Refusal> {
        let sector = u64::from_le(request.read_obj()?);
        let sectors = u32::from_le(request.read_obj()?);
        let flags = u32::from_le(request.read_obj()?);
        if flags & !known_flags != 0 {
            return Err(Refusal::Unsupported);
        }
        if sectors > max_sectors {
            return Err(Refusal::Impossible);
        }
        let range = self.disk.range(sector, u64::from(sectors) * SECTOR).ok_or(Refusal::Impossible)?;
        Ok(Segment { range, flags })
    }

    fn data(self, sector: u64, bytes: usize) -> Result<Range, Refusal> {
        if bytes > MAX_DATA {
            return Err(Refusal::Impossible);
        }
        let bytes = u64::try_from(bytes).map_err(|_| Refusal::Impossible)?;
        self.disk.range(sector, bytes).ok_or(Refusal::Impossible)
    }

    fn check_writable(self) -> Result<(), Refusal> {
        if self.disk.is_writable() { Ok(()) } else { Err(Refusal::Impossible) }
    }
}

#[derive(Debug)]
struct Segment {
    range: Range,
    flags: u32,
}
