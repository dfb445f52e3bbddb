//! The exec server with real commands on this machine, the host's own client on the other end of a socket pair.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent_protocol::bytes::{EnvVar, GuestPath, Word};
use agent_protocol::client::{Handle, Outcome, Session, Stdio};
use agent_protocol::exec::{Argv, Exec, Refusal, Signal, Status, Terminal, User, WindowSize};
use guest_agent::exec::reaper::Reaper;
use guest_agent::exec::{Context, serve};

const PATIENCE: Duration = Duration::from_secs(30);

static CONTEXT: LazyLock<Context> = LazyLock::new(|| Context {
    helper: PathBuf::from(env!("CARGO_BIN_EXE_guest-agent")),
    reaper: Reaper::start().expect("a thread"),
    environment: vec![EnvVar::new("FROM_SETUP", "setup").expect("plain name")],
});

fn command(words: &[&str]) -> Exec {
    let argv = Argv::from_words(words.iter().copied()).expect("no NUL").expect("not empty");
    Exec { argv, env: Vec::new(), cwd: None, user: User::Root, terminal: None }
}

fn shell(script: &str) -> Exec {
    command(&["sh", "-c", script])
}

fn on_terminal(exec: Exec) -> Exec {
    let size = WindowSize { rows: 24, columns: 80 };
    Exec { terminal: Some(Terminal { size, term: Word::new("xterm").expect("one word") }), ..exec }
}

/// A session and the thread that plays the agent.
fn start(exec: Exec) -> (Session, JoinHandle<()>) {
    let (host, guest) = UnixStream::pair().expect("socket pair");
    let agent = thread::spawn(move || serve(OwnedFd::from(guest), &CONTEXT).expect("host keeps the protocol"));
    (Session::start(host, exec).expect("agent listens"), agent)
}

struct Finished {
    outcome: Outcome,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Finished {
    fn code(&self) -> u8 {
        self.outcome.code()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

fn run_with(exec: Exec, stdin: Option<&UnixStream>) -> Finished {
    let (session, agent) = start(exec);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let stdio = Stdio { stdin: stdin.map(AsFd::as_fd), stdout: &mut stdout, stderr: &mut stderr };
    let outcome = session.run(stdio, |_| {}).expect("a clean end");
    agent.join().expect("agent ends well");
    Finished { outcome, stdout, stderr }
}

fn run(exec: Exec) -> Finished {
    run_with(exec, None)
}

/// Standard input that `feed` writes from a thread of its own.
fn input(feed: impl FnOnce(&mut UnixStream) -> io::Result<()> + Send + 'static) -> UnixStream {
    let (mut source, stdin) = UnixStream::pair().expect("socket pair");
    // A command that reads no more ends the feeding early.
    thread::spawn(move || feed(&mut source));
    stdin
}

/// Passes what is written on, so that a test can wait for words.
struct Tap(Sender<Vec<u8>>);

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Action<'a> = Box<dyn FnOnce(&Handle) + 'a>;

/// Runs `exec` and, each time the words appear in its output, takes the action that goes with them.
fn converse(exec: Exec, stdin: Option<UnixStream>, steps: Vec<(&str, Action<'_>)>) -> Finished {
    let (session, agent) = start(exec);
    let handle = session.handle();
    let (tap, output) = channel();
    let running = thread::spawn(move || {
        let stdio = Stdio { stdin: stdin.as_ref().map(AsFd::as_fd), stdout: Tap(tap), stderr: io::sink() };
        session.run(stdio, |_| {})
    });
    let mut stdout = Vec::new();
    let mut seen = 0;
    for (words, action) in steps {
        while !String::from_utf8_lossy(&stdout[seen..]).contains(words) {
            let more = output.recv_timeout(PATIENCE);
            stdout.extend(more.unwrap_or_else(|_| panic!("no {words:?} in {}", stdout.escape_ascii())));
        }
        seen = stdout.len();
        action(&handle);
    }
    stdout.extend(output.into_iter().flatten());
    let outcome = running.join().expect("client").expect("a clean end");
    agent.join().expect("agent ends well");
    Finished { outcome, stdout, stderr: Vec::new() }
}

fn signal(number: i32) -> Action<'static> {
    Box::new(move |handle| handle.signal(Signal::new(number).expect("in range")).expect("agent listens"))
}

#[test]
fn streams_and_status_are_the_commands() {
    let done = run(shell("echo out; echo err >&2; exit 7"));
    assert_eq!((done.code(), done.stdout.as_slice(), done.stderr.as_slice()), (7, &b"out\n"[..], &b"err\n"[..]));
}

#[test]
fn stdin_reaches_the_command_and_ends() {
    let stdin = input(|source| source.write_all(b"some\nlines\n"));
    assert_eq!(run_with(command(&["cat"]), Some(&stdin)).stdout, b"some\nlines\n");
}

#[test]
fn a_command_without_input_reads_its_end() {
    assert_eq!(run(command(&["cat"])).code(), 0);
}

#[test]
fn what_is_not_there_is_127_and_what_cannot_run_is_126() {
    let missing = run(command(&["no-such-program"]));
    assert_eq!(missing.code(), 127);
    assert!(matches!(missing.outcome, Outcome::Refused { reason: Refusal::NotFound, .. }));
    assert_eq!(run(command(&["/no/such/program"])).code(), 127);
    assert_eq!(run(command(&["/etc/passwd"])).code(), 126);
    assert_eq!(run(command(&["/etc"])).code(), 126);
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").expect("written");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    assert_eq!(run(command(&[script.to_str().expect("plain")])).code(), 126);
}

#[test]
fn a_script_without_interpreter_line_runs_as_from_a_shell() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("script");
    std::fs::write(&script, "exit 9\n").expect("written");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    assert_eq!(run(command(&[script.to_str().expect("plain")])).code(), 9);
}

#[test]
fn an_unknown_user_and_a_missing_directory_are_refused_with_the_reason() {
    let ghost = User::Name(Word::new("no-such-user").expect("one word"));
    let refused = run(Exec { user: ghost, ..shell("true") });
    let Outcome::Refused { reason: Refusal::NoSuchUser, message } = refused.outcome else { panic!("it ran") };
    assert_eq!(message.as_str(), "The guest has no user no-such-user");
    let nowhere = Some(GuestPath::new("/no/such/directory").expect("plain path"));
    let refused = run(Exec { cwd: nowhere, ..shell("true") });
    let Outcome::Refused { reason: Refusal::BadDirectory, message } = refused.outcome else { panic!("it ran") };
    assert!(message.as_str().contains("/no/such/directory"), "{message}");
}

#[test]
fn environment_is_the_users_then_the_guests_then_the_commands() {
    let exec = shell("echo $FROM_SETUP $FROM_EXEC $HOME $USER; echo ${PATH%%:*}");
    let env = vec![EnvVar::new("FROM_EXEC", "exec").expect("plain name"), EnvVar::new("USER", "me").expect("plain")];
    assert_eq!(run(Exec { env, ..exec }).text(), "setup exec /root me\n/usr/local/sbin\n");
}

#[test]
fn the_working_directory_may_have_any_bytes() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let directory = tempfile::tempdir().expect("a directory");
    let odd = directory.path().join(std::ffi::OsString::from_vec(b"a b \xff\n".to_vec()));
    std::fs::create_dir(&odd).expect("created");
    let cwd = Some(GuestPath::new(odd.as_os_str().as_bytes()).expect("plain path"));
    run(Exec { cwd, ..shell("> here") });
    assert!(odd.join("here").exists());
}

#[test]
fn another_user_has_their_ids_and_nothing_of_roots() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let cwd = Some(GuestPath::new("/").expect("plain path"));
    let done = run(Exec {
        user: User::Id { uid: 4242, gid: 4243 },
        cwd,
        ..shell("id -u; id -G; cat /proc/self/status | grep CapEff")
    });
    assert_eq!(done.text(), "4242\n4243\nCapEff:\t0000000000000000\n");
}

#[test]
fn signals_reach_the_commands_group_and_show_in_the_status() {
    let done = converse(shell("echo ready; sleep 60 | cat"), None, vec![("ready", signal(15))]);
    assert_eq!(done.outcome, Outcome::Ended(Status::Signalled(Signal::new(15).expect("in range"))));
    assert_eq!(done.code(), 143);
}

#[test]
fn a_command_starts_with_default_signals() {
    // Whoever runs the tests may ignore other signals; the runtime of this program ignores SIGPIPE (bit 12).
    let done = run(shell("grep -E 'SigIgn|SigBlk' /proc/self/status"));
    for line in done.text().lines() {
        let mask = line.split_whitespace().nth(1).map(|digits| u64::from_str_radix(digits, 16).expect("hexadecimal"));
        assert_eq!(mask.expect("a mask") & (1 << 12), 0, "{line}");
    }
}

#[test]
fn two_hundred_megabytes_arrive_whole_both_ways() {
    const TOTAL: usize = 200 << 20;
    let stdin = input(|source| {
        let chunk: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
        (0..TOTAL / chunk.len()).try_for_each(|_| source.write_all(&chunk))
    });
    let (session, agent) = start(command(&["cat"]));
    struct Check(u32, u64);
    impl Write for Check {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            for word in bytes {
                // A cheap sum that notices order.
                self.0 = self.0.rotate_left(5) ^ u32::from(*word);
            }
            self.1 += u64::try_from(bytes.len()).unwrap_or(0);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut check = Check(0, 0);
    let began = Instant::now();
    let stdio = Stdio { stdin: Some(stdin.as_fd()), stdout: &mut check, stderr: io::sink() };
    assert_eq!(session.run(stdio, |_| {}).expect("a clean end").code(), 0);
    agent.join().expect("agent ends well");
    eprintln!("200 MiB both ways in {:?}", began.elapsed());
    let mut expected = Check(0, 0);
    let chunk: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    (0..TOTAL / chunk.len()).for_each(|_| expected.write_all(&chunk).expect("a sum"));
    assert_eq!((check.0, check.1), (expected.0, expected.1));
}

/// Takes nothing until the other end of its socket is dropped.
struct Stuck(UnixStream);
impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Until the test lets go.
        let _ = self.0.read(&mut [0])?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_slow_reader_of_one_stream_delays_neither_the_other_nor_signals() {
    let (release, stuck) = UnixStream::pair().expect("socket pair");
    // The trap comes when `cat` runs, and `kill` is silent: the signal may have ended it already.
    let script = "cat /dev/zero & until grep -q cat /proc/$!/comm; do :; done; \
                  trap 'echo got it >&2; kill $! 2>/dev/null; exit 3' USR1; echo ready >&2; wait";
    let (session, agent) = start(shell(script));
    let handle = session.handle();
    let (tap, errors) = channel();
    let running =
        thread::spawn(move || session.run(Stdio { stdin: None, stdout: Stuck(stuck), stderr: Tap(tap) }, |_| {}));
    assert_eq!(errors.recv_timeout(PATIENCE).expect("words"), b"ready\n");
    handle.signal(Signal::new(10).expect("in range")).expect("agent listens");
    assert_eq!(errors.recv_timeout(PATIENCE).expect("words"), b"got it\n");
    drop(release);
    assert_eq!(running.join().expect("client").expect("a clean end").code(), 3);
    agent.join().expect("agent ends well");
}

#[test]
fn a_reader_that_leaves_gives_the_command_sigpipe() {
    struct Once;
    impl Write for Once {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (session, agent) = start(command(&["yes"]));
    let outcome = session.run(Stdio { stdin: None, stdout: Once, stderr: io::sink() }, |_| {});
    assert_eq!(outcome.expect("a clean end").code(), 128 + 13);
    agent.join().expect("agent ends well");
}

#[test]
fn a_command_that_reads_no_more_stops_its_input() {
    let stdin = input(|source| source.write_all(&vec![b'x'; 10 << 20]));
    assert_eq!(run_with(command(&["head", "-c", "3"]), Some(&stdin)).stdout, b"xxx");
}

#[test]
fn what_is_left_in_the_background_does_not_hold_the_session() {
    let began = Instant::now();
    assert_eq!(run(shell("sleep 20 & echo started")).stdout, b"started\n");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_terminal_is_a_controlling_one_with_size_and_type() {
    let done = run(on_terminal(shell(
        "test -t 0 && test -t 2 && stty size && echo $TERM && tty </dev/tty >/dev/null && echo yes",
    )));
    assert_eq!(done.text(), "24 80\r\nxterm\r\nyes\r\n");
}

#[test]
fn a_new_window_size_interrupts_and_shows() {
    let script = "trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.1; done";
    let resize = |handle: &Handle| handle.resize(WindowSize { rows: 50, columns: 132 }).expect("agent listens");
    let done = converse(on_terminal(shell(script)), None, vec![("ready", Box::new(resize))]);
    assert_eq!(done.code(), 4);
    assert!(done.text().ends_with("50 132\r\n"), "{}", done.text());
}

#[test]
fn control_c_on_a_terminal_interrupts_the_foreground() {
    let (mut keys, stdin) = UnixStream::pair().expect("socket pair");
    let press = move |_: &Handle| keys.write_all(b"\x03").expect("session reads");
    let done = converse(on_terminal(shell("echo ready; exec sleep 60")), Some(stdin), vec![("ready", Box::new(press))]);
    assert_eq!(done.code(), 130);
}

#[test]
fn a_signal_on_a_terminal_reaches_its_foreground_group() {
    let done = converse(on_terminal(shell("echo ready; exec sleep 60")), None, vec![("ready", signal(3))]);
    assert_eq!(done.code(), 131);
}

#[test]
fn end_of_input_on_a_terminal_is_its_end_of_file_character() {
    let stdin = input(|source| source.write_all(b"typed\n"));
    let done = run_with(on_terminal(command(&["cat"])), Some(&stdin));
    assert_eq!((done.code(), done.text().as_str()), (0, "typed\r\ntyped\r\n"));
}

#[test]
fn everything_a_terminal_program_wrote_before_its_end_arrives() {
    const LINES: usize = 20_000;
    let done = run(on_terminal(command(&["seq", "1", &LINES.to_string()])));
    assert_eq!(done.text().lines().count(), LINES);
}

#[test]
fn what_a_terminal_still_holds_at_the_commands_end_arrives() {
    // More than a window of credit, by less than a terminal holds: 531,297 bytes.
    const LINES: usize = 77_486;
    let (release, stuck) = UnixStream::pair().expect("socket pair");
    struct Late(Stuck, Vec<u8>);
    impl Write for Late {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.0.write(bytes)?;
            self.1.extend(bytes);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (session, agent) = start(on_terminal(command(&["seq", "1", &LINES.to_string()])));
    let (tell, started) = channel();
    let running = thread::spawn(move || {
        let mut late = Late(Stuck(stuck), Vec::new());
        let stdio = Stdio { stdin: None, stdout: &mut late, stderr: io::sink() };
        let outcome = session.run(stdio, |started| tell.send(started.pid).expect("test waits"));
        (outcome, late.1)
    });
    let pid = started.recv_timeout(PATIENCE).expect("it starts");
    while std::fs::exists(format!("/proc/{pid}")).expect("procfs") {
        thread::yield_now();
    }
    drop(release);
    let (outcome, stdout) = running.join().expect("client");
    assert_eq!(outcome.expect("a clean end").code(), 0);
    agent.join().expect("agent ends well");
    assert_eq!(stdout.iter().filter(|byte| **byte == b'\n').count(), LINES);
}

#[test]
fn a_host_that_goes_away_hangs_the_command_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let note = directory.path().join("note");
    // The shell waits instead of starting programs: a signal that comes between its fork and exec is lost to the trap.
    let script = "trap 'trap \"\" HUP; echo hup > \"$0\"; exit' HUP; sleep 1000 & echo ready; wait";
    for exec in [shell(script)] {
        for terminal in [false, true] {
            let mut words: Vec<_> = exec.argv.words().to_vec();
            words.push(agent_protocol::bytes::Arg::new(note.to_str().expect("plain")).expect("plain"));
            let exec = Exec { argv: Argv::new(words).expect("not empty"), ..exec.clone() };
            let exec = if terminal { on_terminal(exec) } else { exec };
            let (mut host, guest) = UnixStream::pair().expect("socket pair");
            let agent = thread::spawn(move || serve(OwnedFd::from(guest), &CONTEXT));
            let request = agent_protocol::exec::ToGuest::Exec(Box::new(exec));
            host.write_all(&agent_protocol::encode(&request).expect("short")).expect("agent listens");
            // The first output: the trap is set.
            let mut frames = agent_protocol::FrameReader::<agent_protocol::exec::ToHost>::new();
            while !matches!(
                frames.receive(&host).expect("well-formed"),
                Some(agent_protocol::exec::ToHost::Data { .. })
            ) {}
            drop(host);
            // Returns when the command was reaped.
            agent.join().expect("agent ends").expect("a host may leave");
            assert_eq!(std::fs::read(&note).expect("the trap writes"), b"hup\n", "terminal: {terminal}");
            std::fs::remove_file(&note).expect("the note is there");
        }
    }
}

#[test]
fn a_command_that_ignores_the_hangup_is_killed() {
    let (mut host, guest) = UnixStream::pair().expect("socket pair");
    let request = agent_protocol::exec::ToGuest::Exec(Box::new(shell("trap '' HUP; echo ready; exec sleep 1000")));
    host.write_all(&agent_protocol::encode(&request).expect("short")).expect("agent listens");
    let agent = thread::spawn(move || serve(OwnedFd::from(guest), &CONTEXT));
    let mut frames = agent_protocol::FrameReader::<agent_protocol::exec::ToHost>::new();
    while !matches!(frames.receive(&host).expect("well-formed"), Some(agent_protocol::exec::ToHost::Data { .. })) {}
    drop(host);
    // Returns only when the command was reaped.
    agent.join().expect("agent ends").expect("a host may leave");
}

#[test]
fn many_commands_at_once_leave_no_descriptor_behind() {
    let count = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    let sessions: Vec<_> =
        (0..20).map(|index| thread::spawn(move || run(shell(&format!("exit {index}"))).code())).collect();
    let codes: Vec<u8> = sessions.into_iter().map(|session| session.join().expect("session")).collect();
    assert_eq!(codes, (0..20).collect::<Vec<u8>>());
    // Other tests of this process have theirs, so this can only notice a leak of one per command.
    assert!(count() < 200, "{} descriptors", count());
}
