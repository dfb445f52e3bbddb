//! What is measured.

use crate::table::Metric;

/// Before a command is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// The guest forgets what it has cached; the host does not.
    Cold,
    /// Another command, not timed.
    Do(&'static str),
    /// A hundred tracked files change on the host; on the guest's own disk, by the guest.
    Edits,
    /// The guest begins with this, and the command is the host's.
    Meanwhile(&'static str),
}

/// One measurement. `@` in commands stands for the arm's folder.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub before: Before,
    pub command: &'static str,
    pub metric: Metric,
}

const fn step(before: Before, command: &'static str, metric: Metric) -> Step {
    Step { before, command, metric }
}

/// Single operations.
pub const OPERATIONS: &[Step] = &[
    step(Before::Cold, "stat @", Metric::time("lookup and stat, uncached", "us")),
    step(Before::Do("stat @"), "stat @", Metric::time("stat, again at once", "us")),
    step(Before::Cold, "absent @", Metric::time("lookup of a name that is not there, uncached", "us")),
    step(Before::Cold, "read @", Metric::time("open, read, close of 4 KiB, uncached", "us")),
    step(Before::Do("read @"), "read @", Metric::time("open, read, close of 4 KiB, again at once", "us")),
    step(Before::Nothing, "create @", Metric::time("create and write 4 KiB", "us")),
    step(Before::Nothing, "unlink @", Metric::time("unlink", "us")),
    step(Before::Cold, "list @", Metric::time("list 10,000 names, uncached", "us/entry")),
    step(Before::Do("list @"), "list @", Metric::time("list 10,000 names, again at once", "us/entry")),
    step(Before::Cold, "list-stat @", Metric::time("list and stat 10,000 entries, uncached", "us/entry")),
    step(Before::Cold, "read-large @", Metric::rate("sequential read, 1 MiB, uncached", "MB/s")),
    step(Before::Nothing, "write-large @", Metric::rate("sequential write, 1 MiB, with fdatasync", "MB/s")),
    step(Before::Cold, "read-pages @ 4000", Metric::time("random read, 4 KiB, uncached", "us")),
    step(Before::Nothing, "write-pages @ 2000", Metric::time("random write, 4 KiB, with one fdatasync", "us")),
    step(
        Before::Meanwhile("echo @ 50"),
        "save @ 50",
        Metric::time("host edit until the guest's answer to it, slowest of 50", "ms"),
    ),
];

/// Programs. `repository` has as many files as the script was told; `tree.tar` and `app` are made by the script, too.
pub const PROGRAMS: &[Step] = &[
    step(
        Before::Do("run @/repository git status"),
        "run @/repository git status",
        Metric::time("git status, warm", "s"),
    ),
    step(
        Before::Edits,
        "run @/repository test \"$(git status --porcelain | wc -l)\" = 100",
        Metric::time("git status after 100 edits", "s"),
    ),
    step(Before::Cold, "run @/repository git status", Metric::time("git status, uncached", "s")),
    step(
        Before::Cold,
        "run @/repository rg -c absent_word . || test $? = 1",
        Metric::time("rg over the repository, uncached", "s"),
    ),
    step(
        Before::Do("run @/repository rg -c absent_word . || test $? = 1"),
        "run @/repository rg -c absent_word . || test $? = 1",
        Metric::time("rg over the repository, again at once", "s"),
    ),
    step(
        Before::Do("run @ rm -rf unpacked; mkdir unpacked"),
        "run @ tar -xf tree.tar -C unpacked",
        Metric::time("tar -x of 5,000 files", "s"),
    ),
    // On the guest's own disk, the compiler is the share's, too: only one of the two steps is about the disk.
    step(Before::Cold, CARGO_BUILD, Metric::time("cargo build of two crates, compiler and all uncached", "s")),
    step(Before::Do(CARGO_BUILD), CARGO_BUILD, Metric::time("cargo build of two crates, again at once", "s")),
];

const CARGO_BUILD: &str = "run @/app rm -rf target; \
     PATH=@@/toolchain/bin:$PATH CARGO_HOME=/tmp/cargo cargo build --offline";

/// Makes the folders of an arm be as before the edits.
pub const UNDO_EDITS: &str = "run @/repository git checkout -q .";
/// The edits.
pub const EDIT: &str = "edit @/repository 100";
