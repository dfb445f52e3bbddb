//! One file, written by guest and host in turns: fsx with two sides. What each side reads is compared with what it
//! should be.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate};
use system_tests::{Conversation, NOTICE, Stage, quoted};

use super::operations;
use crate::sharing::guest;

/// Longest the file becomes.
const LONGEST: usize = 256 << 10;
/// Operations of one side before the other has its turn.
const TURN: usize = 50;
const NAME: &str = "shared-file";

/// The guest's half: looks at the file until it is as expected, then does what it is told; through descriptors, and
/// through memory that stays mapped all the time.
const PROGRAM: &str = r#"
import ctypes, mmap, os, sys, time, zlib
path, longest = sys.argv[1], int(sys.argv[2])
f = os.open(path, os.O_RDWR)
os.ftruncate(f, longest); memory = mmap.mmap(f, longest); os.ftruncate(f, 0)
libc = ctypes.CDLL(None)
def told(contents): return "%d:%d" % (len(contents), zlib.crc32(contents))
def look(expected):
    os.close(os.open(path, os.O_RDONLY)); contents = os.pread(f, longest, 0)
    # Memory beyond the end of a file that has just become shorter must not be touched: it is not there.
    fits = told(contents) == expected and os.fstat(f).st_size == len(contents)
    return told(contents), told(memory[:len(contents)]) if fits or not expected else "not looked at"
print("ready", flush=True)
for line in sys.stdin:
    before, *operations = line.split()
    deadline = time.monotonic() + 5
    while (seen := look(before)) != (before, before) and time.monotonic() < deadline: time.sleep(0.005)
    if seen != (before, before):
        print("expected %s, read %s, mapped %s" % (before, *seen), flush=True); continue
    for operation in operations:
        kind, at, length, byte = operation[0], *map(int, operation[1:].split(","))
        data = bytes([byte]) * length
        if kind == "w": assert os.pwrite(f, data, at) == length
        elif kind == "m": memory[at:at + length] = data
        elif kind == "t": os.ftruncate(f, length)
        elif kind == "p": assert libc.fallocate(f, 3, ctypes.c_long(at), ctypes.c_long(length)) == 0
        elif kind == "s": memory.flush(); os.fsync(f)
        elif kind == "o": os.close(f); f = os.open(path, os.O_RDWR)
    memory.flush()
    print(*look(None), flush=True)
"#;

/// What one side does to the file.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Write {
        at: usize,
        length: usize,
        byte: u8,
    },
    /// Through mapped memory, where there is a file.
    Map {
        at: usize,
        length: usize,
        byte: u8,
    },
    Truncate {
        length: usize,
    },
    Punch {
        at: usize,
        length: usize,
    },
    Sync,
    Reopen,
}

impl Operation {
    fn choose(chance: &mut Chance, size: usize) -> Self {
        let (at, length, byte) = (chance.below(LONGEST), chance.below(16 << 10) + 1, chance.byte());
        let length = length.min(LONGEST - at);
        match chance.below(100) {
            0..40 => Self::Write { at, length, byte },
            40..70 if size > 0 => {
                let at = at % size;
                Self::Map { at, length: length.min(size - at), byte }
            }
            70..80 => Self::Truncate { length: at },
            80..90 => Self::Punch { at, length },
            90..95 => Self::Reopen,
            _ => Self::Sync,
        }
    }

    /// In the words of [`PROGRAM`].
    fn text(self) -> String {
        match self {
            Self::Write { at, length, byte } => format!("w{at},{length},{byte}"),
            Self::Map { at, length, byte } => format!("m{at},{length},{byte}"),
            Self::Truncate { length } => format!("t0,{length},0"),
            Self::Punch { at, length } => format!("p{at},{length},0"),
            Self::Sync => "s0,0,0".to_owned(),
            Self::Reopen => "o0,0,0".to_owned(),
        }
    }

    fn on_host(self, file: &File) -> Result<()> {
        match self {
            Self::Write { at, length, byte } | Self::Map { at, length, byte } => {
                file.write_all_at(&vec![byte; length], u64::try_from(at)?)?;
            }
            Self::Truncate { length } => file.set_len(u64::try_from(length)?)?,
            Self::Punch { at, length } => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(file, mode, u64::try_from(at)?, u64::try_from(length)?)?;
            }
            Self::Sync | Self::Reopen => {}
        }
        Ok(())
    }

    fn on_model(self, model: &mut Vec<u8>) {
        match self {
            Self::Write { at, length, byte } | Self::Map { at, length, byte } => {
                model.resize(model.len().max(at + length), 0);
                model[at..at + length].fill(byte);
            }
            Self::Truncate { length } => model.resize(length, 0),
            Self::Punch { at, length } => {
                let end = (at + length).min(model.len());
                model[at.min(end)..end].fill(0);
            }
            Self::Sync | Self::Reopen => {}
        }
    }
}

pub fn one_file_is_written_by_both_sides_in_turns(stage: &Stage) -> Result<()> {
    let path = stage.project().join(NAME);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    let mut guest = guest(stage, &[])?;
    guest.does(&format!("coproc exec python3 -u -c {} {NAME} {LONGEST} 2>/tmp/log", quoted(PROGRAM)))?;
    guest.does("read -r -t 60 line <&${COPROC[0]} && test \"$line\" = ready")?;
    let (mut chance, mut model) = (Chance(0x9e37_79b9_7f4a_7c15), Vec::new());
    let turns = operations(2000, 1_000_000) / (2 * TURN);
    for turn in 0..turns {
        for _ in 0..TURN {
            let operation = Operation::choose(&mut chance, model.len());
            operation.on_host(&file)?;
            operation.on_model(&mut model);
        }
        let before = told(&model);
        let mut line = before.clone();
        for _ in 0..TURN {
            let operation = Operation::choose(&mut chance, model.len());
            operation.on_model(&mut model);
            line += " ";
            line += &operation.text();
        }
        let answer = turn_of(&mut guest, &line).with_context(|| format!("turn {turn} of {turns}"))?;
        let after = told(&model);
        ensure!(
            answer == format!("{after} {after}"),
            "turn {turn}: the guest reads {answer}, and it should be {after}"
        );
        let mut found = vec![0; LONGEST];
        let length = file.read_at(&mut found, 0)?;
        found.truncate(length);
        ensure!(found == model, "turn {turn}: the host reads {}, and it should be {after}", told(&found));
    }
    guest.does("kill $COPROC_PID")?;
    guest.leave()
}

fn turn_of(guest: &mut Conversation, line: &str) -> Result<String> {
    let limit = NOTICE.as_secs() * 2;
    guest.does(&format!(
        "echo {} >&${{COPROC[1]}}; if read -r -t {limit} line <&${{COPROC[0]}}; then echo \"$line\"; else cat /tmp/log; fi",
        quoted(line)
    ))
}

/// Size and checksum, as the guest tells them.
fn told(contents: &[u8]) -> String {
    format!("{}:{}", contents.len(), crc32(contents))
}

/// zlib's `crc32`.
fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}

/// Repeatable random numbers.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap_or(u64::MAX)).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or_default()
    }
}
