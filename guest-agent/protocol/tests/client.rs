//! The host's half of a command against a scripted agent on the other end of a socket pair.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use agent_protocol::client::{Outcome, Session, Stdio};
use agent_protocol::credit::WINDOW;
use agent_protocol::exec::{Argv, Exec, MAX_DATA, Status, Stream, ToGuest, ToHost, User};
use agent_protocol::{FrameReader, ProtocolError, encode};

fn exec() -> Exec {
    let argv = Argv::from_words(["true"]).expect("plain word").expect("one word");
    Exec { argv, env: Vec::new(), cwd: None, user: User::Root, terminal: None }
}

fn say(mut stream: &UnixStream, message: &ToHost) {
    stream.write_all(&encode(message).expect("within limits")).expect("host listens");
}

/// Takes what a session without input begins with.
fn hear_request(stream: &UnixStream) {
    let mut frames = FrameReader::<ToGuest>::new();
    let mut next = || frames.receive(stream).expect("well-formed").expect("more to come");
    assert!(matches!(next(), ToGuest::Exec(_)));
    assert_eq!(next(), ToGuest::CloseStdin);
}

fn data(stream: Stream, len: usize) -> ToHost {
    ToHost::Data { stream, bytes: vec![b'x'; len] }
}

/// Runs a session whose other end is played by `agent`; gives its outcome and its standard output.
fn run_against(agent: impl FnOnce(UnixStream) + Send + 'static) -> (Result<Outcome, ProtocolError>, Vec<u8>) {
    let (ours, theirs) = UnixStream::pair().expect("socket pair");
    let agent = thread::spawn(move || {
        hear_request(&theirs);
        agent(theirs);
    });
    let mut stdout = Vec::new();
    let session = Session::start(ours, exec()).expect("agent listens");
    let outcome = session.run(Stdio { stdin: None, stdout: &mut stdout, stderr: io::sink() }, |_| {});
    agent.join().expect("agent's script");
    (outcome, stdout)
}

#[test]
fn output_and_status_reach_the_caller() {
    let (outcome, stdout) = run_against(|stream| {
        say(&stream, &ToHost::Started { pid: 1, at_ns: 2 });
        say(&stream, &data(Stream::Stdout, 10));
        say(&stream, &ToHost::Exited(Status::Exited(7)));
    });
    assert_eq!(outcome.expect("clean end").code(), 7);
    assert_eq!(stdout, b"xxxxxxxxxx");
}

#[test]
fn an_agent_that_leaves_early_is_an_error() {
    let (outcome, _) = run_against(|stream| say(&stream, &ToHost::Started { pid: 1, at_ns: 2 }));
    assert!(matches!(outcome, Err(ProtocolError::Closed | ProtocolError::Io(_))));
}

#[test]
fn data_beyond_the_credit_is_an_error() {
    struct Stuck(UnixStream);
    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            io::Read::read(&mut self.0, &mut [0])
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (ours, theirs) = UnixStream::pair().expect("socket pair");
    let (gate, gated) = UnixStream::pair().expect("socket pair");
    let agent = thread::spawn(move || {
        hear_request(&theirs);
        for _ in 0..=WINDOW / 65_536 {
            say(&theirs, &data(Stream::Stdout, MAX_DATA));
        }
        let mut frames = FrameReader::<ToGuest>::new();
        // The host closes its end before its stuck writer is let go.
        let _ = gate.shutdown(std::net::Shutdown::Write);
        while let Ok(Some(_)) = frames.receive(&theirs) {}
    });
    let session = Session::start(ours, exec()).expect("agent listens");
    let outcome = session.run(Stdio { stdin: None, stdout: Stuck(gated), stderr: io::sink() }, |_| {});
    assert!(matches!(outcome, Err(ProtocolError::Credit)), "{outcome:?}");
    agent.join().expect("agent's script");
}

#[test]
fn input_stops_at_the_credit_and_goes_on_when_given_more() {
    let total = usize::try_from(WINDOW).expect("small") + 1000;
    let (ours, theirs) = UnixStream::pair().expect("socket pair");
    let (mut source, stdin) = UnixStream::pair().expect("socket pair");
    let feeder = thread::spawn(move || source.write_all(&vec![b'y'; total]).expect("session reads"));
    let agent = thread::spawn(move || {
        let mut frames = FrameReader::<ToGuest>::new();
        let mut taken = 0;
        let mut next = || frames.receive(&theirs).expect("well-formed").expect("more to come");
        assert!(matches!(next(), ToGuest::Exec(_)));
        let window = usize::try_from(WINDOW).expect("small");
        while taken < window {
            let ToGuest::Data(bytes) = next() else { panic!("data first") };
            taken += bytes.len();
        }
        assert_eq!(taken, window);
        say(&theirs, &ToHost::Credit { bytes: 2000 });
        while taken < total {
            let ToGuest::Data(bytes) = next() else { panic!("data first") };
            taken += bytes.len();
        }
        assert_eq!(next(), ToGuest::CloseStdin);
        say(&theirs, &ToHost::Exited(Status::Exited(0)));
    });
    let session = Session::start(ours, exec()).expect("agent listens");
    let stdio = Stdio { stdin: Some(stdin.as_fd()), stdout: io::sink(), stderr: io::sink() };
    assert_eq!(session.run(stdio, |_| {}).expect("clean end").code(), 0);
    agent.join().expect("agent's script");
    feeder.join().expect("all was read");
}

#[test]
fn a_reader_that_went_away_is_told_to_the_guest() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (ours, theirs) = UnixStream::pair().expect("socket pair");
    let agent = thread::spawn(move || {
        hear_request(&theirs);
        say(&theirs, &data(Stream::Stdout, 10));
        let mut frames = FrameReader::<ToGuest>::new();
        let mut next = || frames.receive(&theirs).expect("well-formed").expect("more to come");
        while next() != (ToGuest::CloseOutput { stream: Stream::Stdout }) {}
        say(&theirs, &ToHost::Exited(Status::Exited(0)));
    });
    let session = Session::start(ours, exec()).expect("agent listens");
    session.run(Stdio { stdin: None, stdout: Gone, stderr: io::sink() }, |_| {}).expect("clean end");
    agent.join().expect("agent's script");
}
