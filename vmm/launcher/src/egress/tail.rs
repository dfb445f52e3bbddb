//! Reading the log, to its end and beyond.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

use super::entry::{Entry, Kind};
use super::write::{FILE, OLD_FILE};

/// Longest line that is read as one; the log has none near that.
const MAX_LINE: usize = 64 << 10;
const CHUNK: usize = 64 << 10;

/// Why following a log has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// Nobody wants more of it.
    Enough,
    /// Its folder was removed.
    Gone,
}

/// A position in a VM's log.
#[derive(Debug)]
pub struct Tail {
    folder: PathBuf,
    /// What was rotated away is read.
    is_begun: bool,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Tail {
    /// A log from its beginning, with what was rotated away as far as it is kept.
    pub fn open(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), is_begun: false, file: None, rest: Vec::new() }
    }

    /// All lines there are now, each with its entry; unreadable lines are left out.
    pub fn read(&mut self) -> io::Result<Vec<(String, Entry)>> {
        let mut lines = Vec::new();
        if !std::mem::replace(&mut self.is_begun, true)
            && let Some(old) = open(&self.folder.join(OLD_FILE))?
        {
            take_lines(&old, &mut self.rest, &mut lines)?;
        }
        loop {
            if let Some(file) = &self.file {
                take_lines(file, &mut self.rest, &mut lines)?;
            }
            let now = match open(&self.folder.join(FILE))? {
                Some(now) if self.is_same(&now)? => break,
                now => now,
            };
            // What was written between the end we saw and the rotation. Without a new file the old one is let go all
            // the same: a folder with an open file in it is not gone for inotify.
            let is_last = now.is_none();
            if let Some(file) = std::mem::replace(&mut self.file, now) {
                take_lines(&file, &mut self.rest, &mut lines)?;
            }
            if is_last {
                break;
            }
        }
        Ok(lines.iter().filter_map(|line| parse(line)).collect())
    }

    /// What belongs to the VM's last run.
    pub fn last_run(mut lines: Vec<(String, Entry)>) -> Vec<(String, Entry)> {
        let start = lines.iter().rposition(|(_, entry)| entry.event == Kind::Start).unwrap_or(0);
        lines.split_off(start)
    }

    /// Hands out lines as they are written, until `take` wants no more or the folder is removed.
    pub fn follow(&mut self, mut take: impl FnMut(Vec<(String, Entry)>) -> io::Result<bool>) -> io::Result<Followed> {
        let inotify: OwnedFd = init(CreateFlags::CLOEXEC)?;
        let wanted = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
        match add_watch(&inotify, &self.folder, wanted | WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR) {
            Err(Errno::NOENT) => return Ok(Followed::Gone),
            watched => watched?,
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&inotify, &mut buffer);
        // Watch first, read then: nothing falls in between.
        while take(self.read()?)? {
            loop {
                match events.next().map(|event| event.events().contains(ReadFlags::IGNORED)) {
                    Ok(true) => {
                        take(self.read()?)?;
                        return Ok(Followed::Gone);
                    }
                    Ok(false) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                if events.is_buffer_empty() {
                    break;
                }
            }
        }
        Ok(Followed::Enough)
    }

    fn is_same(&self, now: &File) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let (ours, theirs) = (file.metadata()?, now.metadata()?);
        Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads whole lines up to the end of the file; what is behind the last line end waits in `rest`.
fn take_lines(mut file: &File, rest: &mut Vec<u8>, lines: &mut Vec<Vec<u8>>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for piece in chunk.get(..count).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            rest.extend(piece);
            if piece.ends_with(b"\n") {
                lines.push(std::mem::take(rest));
            } else if rest.len() > MAX_LINE {
                rest.clear();
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<(String, Entry)> {
    let text = std::str::from_utf8(line).ok()?.trim_end();
    Some((text.to_owned(), serde_json::from_str(text).ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn line(kind: &str, vm: u32) -> String {
        format!("{{\"time\":\"t\",\"vm\":\"{vm}\",\"event\":\"{kind}\"}}\n")
    }

    fn vms(lines: &[(String, Entry)]) -> Vec<&str> {
        lines.iter().map(|(_, entry)| entry.vm.as_str()).collect()
    }

    #[test]
    fn half_a_line_waits_for_its_end_and_nonsense_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = File::create(folder.path().join(FILE)).unwrap();
        let mut tail = Tail::open(folder.path());
        let (one, two) = (line("limit", 1), line("limit", 2));
        log.write_all(format!("{one}not json\n{}", &two[..9]).as_bytes()).unwrap();
        assert_eq!(vms(&tail.read().unwrap()), ["1"]);
        log.write_all(&two.as_bytes()[9..]).unwrap();
        assert_eq!(vms(&tail.read().unwrap()), ["2"]);
    }

    #[test]
    fn a_rotation_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (log, old) = (folder.path().join(FILE), folder.path().join(OLD_FILE));
        fs::write(&old, line("limit", 0)).unwrap();
        fs::write(&log, line("limit", 1)).unwrap();
        let mut tail = Tail::open(folder.path());
        assert_eq!(vms(&tail.read().unwrap()), ["0", "1"]);
        let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
        file.write_all(line("limit", 2).as_bytes()).unwrap();
        fs::rename(&log, &old).unwrap();
        fs::write(&log, line("limit", 3)).unwrap();
        assert_eq!(vms(&tail.read().unwrap()), ["2", "3"]);
        assert!(tail.read().unwrap().is_empty());
    }

    #[test]
    fn the_last_run_begins_with_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let text = [line("start", 1), line("limit", 2), line("start", 3), line("limit", 4)].concat();
        fs::write(folder.path().join(FILE), text).unwrap();
        let lines = Tail::open(folder.path()).read().unwrap();
        assert_eq!(vms(&Tail::last_run(lines)), ["3", "4"]);
    }

    #[test]
    fn following_hands_out_what_is_written_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, line("limit", 1)).unwrap();
        let mut seen = Vec::new();
        Tail::open(folder.path())
            .follow(|lines| {
                seen.extend(vms(&lines).iter().map(|vm| (*vm).to_owned()));
                if seen.len() == 1 {
                    let mut log = fs::OpenOptions::new().append(true).open(&path)?;
                    log.write_all(line("limit", 2).as_bytes())?;
                }
                Ok(seen.len() < 2)
            })
            .unwrap();
        assert_eq!(seen, ["1", "2"]);
    }

    #[test]
    fn following_ends_with_the_folder_and_after_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, line("limit", 1)).unwrap();
        let mut seen = Vec::new();
        let mut tail = Tail::open(folder.path());
        let ended = tail.follow(|lines| {
            seen.extend(vms(&lines).iter().map(|vm| (*vm).to_owned()));
            if seen.len() == 1 {
                let mut log = fs::OpenOptions::new().append(true).open(&path)?;
                log.write_all(line("limit", 2).as_bytes())?;
                fs::remove_dir_all(folder.path())?;
            }
            Ok(true)
        });
        assert_eq!((ended.unwrap(), seen), (Followed::Gone, vec!["1".to_owned(), "2".to_owned()]));
        assert_eq!(tail.follow(|_| Ok(true)).unwrap(), Followed::Gone);
    }
}
