//! `fs-load`: what `benches/fs` measures, done by the same program in every guest and on the host.
//!
//! It says `ready`; from then on a line of standard input is a command, and a line of standard output its answer:
//! numbers, or `!` and an error. Times are taken here, so the way of the command does not count. `prepare FOLDER` makes
//! what the others use.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Small files, in folders of a hundred.
const SMALL: u32 = 2000;
const PER_FOLDER: u32 = 100;
/// Entries of the wide folder.
const WIDE: u32 = 10_000;
const SMALL_SIZE: usize = 4096;
const MIB: usize = 1 << 20;
/// Size of the large file in MiB, and pages in it.
const LARGE: u32 = 128;
const PAGES: u64 = 128 * 256;

fn main() -> io::Result<()> {
    let mut answers = io::stdout();
    writeln!(answers, "ready")?;
    for line in io::stdin().lock().lines() {
        let answer = match obey(&line?) {
            Ok(numbers) => numbers.iter().map(f64::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => format!("!{error}"),
        };
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

fn obey(line: &str) -> io::Result<Vec<f64>> {
    let mut words = line.splitn(3, ' ');
    let (what, at) = (words.next().unwrap_or_default(), Path::new(words.next().unwrap_or_default()));
    let rest = words.next().unwrap_or_default();
    match what {
        "prepare" => prepare(at).map(|()| vec![]),
        "drop" => drop_caches().map(|()| vec![]),
        "stat" => per(SMALL, || small(at, |path| fs::metadata(path).map(drop))),
        "absent" => per(SMALL, || small(at, |path| absent(&path.with_extension("absent")))),
        "read" => per(SMALL, || small(at, read)),
        "create" => per(SMALL, || (0..SMALL).try_for_each(|n| create(&made(at, n)))),
        "unlink" => per(SMALL, || (0..SMALL).try_for_each(|n| fs::remove_file(made(at, n)))),
        "list" => per(WIDE, || list(&at.join("wide"), |_| Ok(()))),
        "list-stat" => per(WIDE, || list(&at.join("wide"), |entry| entry.metadata().map(drop))),
        "read-large" => rate(|| read_large(&at.join("large"))),
        "write-large" => rate(|| write_large(&at.join("written"))),
        "read-pages" => per(number(rest)?, || pages(&at.join("large"), number(rest)?, false)),
        "write-pages" => per(number(rest)?, || pages(&at.join("large"), number(rest)?, true)),
        "run" => seconds(|| run(at, rest)),
        "echo" => echo(at, number(rest)?).map(|()| vec![]),
        "save" => save(at, number(rest)?).map(|slowest| vec![slowest.as_secs_f64() * 1e3]),
        "edit" => edit(at, number(rest)?).map(|()| vec![]),
        _ => Err(io::Error::other(format!("unknown command {what:?}"))),
    }
}

fn number(word: &str) -> io::Result<u32> {
    word.trim().parse().map_err(io::Error::other)
}

/// Microseconds of each of `count` operations.
fn per(count: u32, work: impl FnOnce() -> io::Result<()>) -> io::Result<Vec<f64>> {
    Ok(seconds(work)?.into_iter().map(|all| all * 1e6 / f64::from(count)).collect())
}

/// MB per second.
fn rate(work: impl FnOnce() -> io::Result<()>) -> io::Result<Vec<f64>> {
    Ok(seconds(work)?.into_iter().map(|all| f64::from(LARGE) * 1.048_576 / all).collect())
}

fn seconds(work: impl FnOnce() -> io::Result<()>) -> io::Result<Vec<f64>> {
    let begun = Instant::now();
    work()?;
    Ok(vec![begun.elapsed().as_secs_f64()])
}

fn prepare(at: &Path) -> io::Result<()> {
    for n in 0..SMALL {
        let path = small_path(at, n);
        if n % PER_FOLDER == 0 {
            fs::create_dir_all(path.parent().unwrap_or(at))?;
        }
        create(&path)?;
    }
    fs::create_dir(at.join("wide"))?;
    (0..WIDE).try_for_each(|n| fs::write(at.join(format!("wide/entry-{n}")), b""))?;
    fs::create_dir(at.join("made"))?;
    write_large(&at.join("large"))
}

/// Forgets what this kernel has cached, after it has written what it owes.
fn drop_caches() -> io::Result<()> {
    run(Path::new("/"), "sync")?;
    fs::write("/proc/sys/vm/drop_caches", "3")
}

fn small_path(at: &Path, n: u32) -> PathBuf {
    at.join(format!("small/{}/file-{n}", n / PER_FOLDER))
}

fn made(at: &Path, n: u32) -> PathBuf {
    at.join(format!("made/new-{n}"))
}

/// Every small file, by a name that is known beforehand: no listing helps.
fn small(at: &Path, each: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    (0..SMALL).try_for_each(|n| each(&small_path(at, n)))
}

fn absent(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(io::Error::other("a file that should not be there")),
    }
}

fn read(path: &Path) -> io::Result<()> {
    let mut contents = [0; SMALL_SIZE];
    File::open(path)?.read_exact(&mut contents)
}

fn create(path: &Path) -> io::Result<()> {
    File::create_new(path)?.write_all(&[0x5a; SMALL_SIZE])
}

fn list(folder: &Path, each: impl Fn(&fs::DirEntry) -> io::Result<()>) -> io::Result<()> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        each(&entry?)?;
        count += 1;
    }
    if count == WIDE { Ok(()) } else { Err(io::Error::other(format!("{count} entries"))) }
}

fn read_large(path: &Path) -> io::Result<()> {
    let (mut file, mut chunk) = (File::open(path)?, vec![0; MIB]);
    (0..LARGE).try_for_each(|_| file.read_exact(&mut chunk))
}

/// The data counts as written when it has reached the file system's other end.
fn write_large(path: &Path) -> io::Result<()> {
    let (mut file, chunk) = (File::create(path)?, vec![0x5a; MIB]);
    (0..LARGE).try_for_each(|_| file.write_all(&chunk))?;
    file.sync_data()
}

/// Single pages of the large file, in no order.
fn pages(path: &Path, count: u32, is_write: bool) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(is_write).open(path)?;
    let mut page = [0x5a; 4096];
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let offset = state % PAGES * 4096;
        if is_write { file.write_all_at(&page, offset)? } else { file.read_exact_at(&mut page, offset)? }
    }
    if is_write { file.sync_data() } else { Ok(()) }
}

/// A shell command; its output is nobody's.
fn run(at: &Path, command: &str) -> io::Result<()> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-ec", command]).current_dir(at).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = shell.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
    Err(io::Error::other(format!("{command:?} ended with {}: {said}", output.status)))
}

/// Changes files that git tracks, spread over the tree.
fn edit(at: &Path, count: u32) -> io::Result<()> {
    for n in 0..count {
        let n = n * 37;
        let path = at.join(format!("{}/{}/file{n}.c", n / 1000, n / 50));
        OpenOptions::new().append(true).open(path)?.write_all(b"// edited\n")?;
    }
    Ok(())
}

/// Answers each of `count` new contents of a file by another file with the same.
fn echo(at: &Path, count: u32) -> io::Result<()> {
    for n in 1..=count {
        wait_for(&at.join("saved"), n)?;
        fs::write(at.join("echoed"), n.to_string())?;
    }
    Ok(())
}

/// Saves a file `count` times, in place or by a new one as editors do, and waits each time until it is answered; the
/// slowest of the answers.
fn save(at: &Path, count: u32) -> io::Result<Duration> {
    let mut slowest = Duration::ZERO;
    for n in 1..=count {
        thread::sleep(Duration::from_millis(5 + u64::from(n * 7 % 20)));
        let (begun, file, new) = (Instant::now(), at.join("saved"), at.join("saved.new"));
        if n % 2 == 0 {
            fs::write(&file, n.to_string())?;
        } else {
            fs::write(&new, n.to_string())?;
            fs::rename(&new, &file)?;
        }
        wait_for(&at.join("echoed"), n)?;
        slowest = slowest.max(begun.elapsed());
    }
    fs::remove_file(at.join("saved"))?;
    fs::remove_file(at.join("echoed"))?;
    Ok(slowest)
}

/// Reads a file again and again until it holds that number.
fn wait_for(file: &Path, number: u32) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::read(file).unwrap_or_default() != number.to_string().as_bytes() {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{} does not come to hold {number}", file.display())));
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}
