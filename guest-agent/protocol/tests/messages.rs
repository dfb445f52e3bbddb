//! Every message survives the wire, and nothing that arrives can do more than end the connection.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use agent_protocol::bytes::{
    Arg, Domain, EntryName, EnvVar, GuestPath, Hostname, Serial, SysctlName, SysctlValue, Text, Timezone, Word,
};
use agent_protocol::control::{self, Mark};
use agent_protocol::exec::{self, Argv, Exec, Refusal, Signal, Status, Stream, Terminal, User, WindowSize};
use agent_protocol::setup::{Address, File, Host, Network, Setup, Share, ShareKind, Sysctl, Tmpfs, Upper};
use agent_protocol::{FrameReader, Message, ProtocolError, VERSION, encode};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::{collection::vec, option, prop_assert_eq};

/// A stream that gives `bytes` in pieces of at most `piece`.
struct Pieces<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.piece.min(buffer.len());
        self.bytes.read(&mut buffer[..count])
    }
}

fn sent_and_received<M: Message>(messages: &[M], piece: usize) -> Result<Vec<M>, ProtocolError> {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend(encode(message)?);
    }
    received(&bytes, piece)
}

fn received<M: Message>(bytes: &[u8], piece: usize) -> Result<Vec<M>, ProtocolError> {
    let mut stream = Pieces { bytes, piece };
    let mut frames = FrameReader::new();
    let mut messages = Vec::new();
    while let Some(message) = frames.receive(&mut stream)? {
        messages.push(message);
    }
    Ok(messages)
}

fn word() -> impl Strategy<Value = Word> {
    "[a-z][a-z0-9_.-]{0,30}".prop_map(|name| Word::new(name).expect("matches the rule"))
}

fn arg() -> impl Strategy<Value = Arg> {
    vec(1..=255u8, 0..300).prop_map(|bytes| Arg::new(bytes).expect("free of NUL"))
}

fn path() -> impl Strategy<Value = GuestPath> {
    vec(vec(prop_oneof![1..=45u8, 48..=255u8], 1..40), 0..5).prop_map(|parts| {
        let path: Vec<u8> = parts.into_iter().flat_map(|part| [b"/x".to_vec(), part].concat()).collect();
        GuestPath::new(if path.is_empty() { b"/".to_vec() } else { path }).expect("plain components")
    })
}

fn variable() -> impl Strategy<Value = EnvVar> {
    ("[A-Z_]{1,12}", arg()).prop_map(|(name, value)| EnvVar::new(name, value.as_bytes()).expect("plain name"))
}

fn text() -> impl Strategy<Value = Text> {
    ".{0,200}".prop_map(Text::new)
}

fn size() -> impl Strategy<Value = WindowSize> {
    any::<(u16, u16)>().prop_map(|(rows, columns)| WindowSize { rows, columns })
}

fn signal() -> impl Strategy<Value = Signal> {
    (1..=64i32).prop_map(|number| Signal::new(number).expect("in range"))
}

fn output() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

fn exec() -> impl Strategy<Value = Exec> {
    let user = prop_oneof![
        Just(User::Root),
        word().prop_map(User::Name),
        any::<(u32, u32)>().prop_map(|(uid, gid)| User::Id { uid, gid }),
    ];
    let terminal = option::of((size(), word()).prop_map(|(size, term)| Terminal { size, term }));
    (vec(arg(), 1..20), vec(variable(), 0..20), option::of(path()), user, terminal).prop_map(
        |(words, env, cwd, user, terminal)| Exec {
            argv: Argv::new(words).expect("not empty"),
            env,
            cwd,
            user,
            terminal,
        },
    )
}

fn exec_to_guest() -> impl Strategy<Value = exec::ToGuest> {
    prop_oneof![
        exec().prop_map(|exec| exec::ToGuest::Exec(Box::new(exec))),
        vec(any::<u8>(), 1..3000).prop_map(exec::ToGuest::Data),
        Just(exec::ToGuest::CloseStdin),
        (output(), any::<u32>()).prop_map(|(stream, bytes)| exec::ToGuest::Credit { stream, bytes }),
        output().prop_map(|stream| exec::ToGuest::CloseOutput { stream }),
        signal().prop_map(exec::ToGuest::Signal),
        size().prop_map(exec::ToGuest::Resize),
    ]
}

fn exec_to_host() -> impl Strategy<Value = exec::ToHost> {
    let reason = prop_oneof![
        Just(Refusal::NotFound),
        Just(Refusal::NotExecutable),
        Just(Refusal::NoSuchUser),
        Just(Refusal::BadDirectory),
        Just(Refusal::Other),
    ];
    prop_oneof![
        any::<(u32, u64)>().prop_map(|(pid, at_ns)| exec::ToHost::Started { pid, at_ns }),
        (output(), vec(any::<u8>(), 1..3000)).prop_map(|(stream, bytes)| exec::ToHost::Data { stream, bytes }),
        any::<u32>().prop_map(|bytes| exec::ToHost::Credit { bytes }),
        prop_oneof![Just(Stream::Stdin), output()].prop_map(|stream| exec::ToHost::Closed { stream }),
        any::<u8>().prop_map(|code| exec::ToHost::Exited(Status::Exited(code))),
        signal().prop_map(|signal| exec::ToHost::Exited(Status::Signalled(signal))),
        (reason, text()).prop_map(|(reason, message)| exec::ToHost::Refused { reason, message }),
    ]
}

fn marks() -> impl Strategy<Value = Vec<Mark>> {
    vec((text(), any::<u64>()).prop_map(|(name, at_ns)| Mark { name, at_ns }), 0..10)
}

fn control_to_host() -> impl Strategy<Value = control::ToHost> {
    prop_oneof![
        marks().prop_map(|marks| control::ToHost::Hello { marks }),
        (marks(), vec(text(), 0..5), any::<bool>())
            .prop_map(|(marks, warnings, takes_notices)| { control::ToHost::Ready { marks, warnings, takes_notices } }),
        text().prop_map(|message| control::ToHost::Failed { message }),
        vec(any::<(u16, u16)>(), 0..=control::MAX_PORTS).prop_map(|relays| control::ToHost::Relays {
            relays: relays.into_iter().map(|(port, at)| control::Relay { port, at }).collect(),
        }),
        vec(any::<u16>(), 0..=control::MAX_PORTS).prop_map(|ports| control::ToHost::Listening { ports }),
        any::<u64>().prop_map(|nonce| control::ToHost::Pong { nonce }),
        any::<(u32, u32)>().prop_map(|(uid, gid)| control::ToHost::Owner { uid, gid }),
        Just(control::ToHost::Stopped),
    ]
}

fn full_setup() -> Setup {
    let path = |path: &[u8]| GuestPath::new(path).expect("plain path");
    let domain = |name: &str| Domain::new(name).expect("plain name");
    let serial = |name: &str| Serial::new(name).expect("plain name");
    Setup {
        timezone: Some(Timezone::new("Europe/Berlin").expect("plain name")),
        shares: vec![
            Share {
                entry: EntryName::new("0").expect("one component"),
                path: path(b"/home/me/pr\xff\xfe ject"),
                kind: ShareKind::Directory,
                read_only: false,
            },
            Share {
                entry: EntryName::new("1").expect("one component"),
                path: path(b"/etc/gitconfig"),
                kind: ShareKind::File,
                read_only: true,
            },
        ],
        owner: User::Name(Word::new("agent").expect("plain name")),
        tmpfs: vec![Tmpfs { path: path(b"/scratch"), size: Some(1 << 40), mode: 0o1777 }],
        files: vec![File { path: path(b"/etc/motd"), mode: 0o644, content: b"\0\xffhello".to_vec() }],
        network: Some(Network {
            mac: Some([2, 0x76, 0x6d, 0x6d, 0, 2]),
            mtu: 65520,
            ipv4: Some(Address { address: Ipv4Addr::new(100, 96, 0, 2), prefix: 30, gateway: None }),
            ipv6: Some(Address { address: Ipv6Addr::LOCALHOST, prefix: 64, gateway: Some(Ipv6Addr::UNSPECIFIED) }),
            dns: vec![IpAddr::V4(Ipv4Addr::new(100, 96, 0, 1)), IpAddr::V6(Ipv6Addr::LOCALHOST)],
            search: vec![domain("example.org")],
            hosts: vec![Host { address: IpAddr::V4(Ipv4Addr::LOCALHOST), name: domain("host.internal") }],
        }),
        sysctls: vec![Sysctl {
            name: SysctlName::new("net.ipv4.ping_group_range").expect("plain name"),
            value: SysctlValue::new("0\t2147483647").expect("one line"),
        }],
        environment: vec![EnvVar::new("IS_SANDBOX", "1").expect("plain name")],
        ..Setup::new(
            Hostname::new("vm-1").expect("plain name"),
            u64::MAX,
            serial("root"),
            Upper::Disk(serial("overlay")),
        )
    }
}

proptest! {
    #[test]
    fn exec_requests_survive_any_chopping(messages in vec(exec_to_guest(), 0..6), piece in 1..5000usize) {
        prop_assert_eq!(sent_and_received(&messages, piece).expect("what we sent"), messages);
    }

    #[test]
    fn exec_answers_survive_any_chopping(messages in vec(exec_to_host(), 0..6), piece in 1..5000usize) {
        prop_assert_eq!(sent_and_received(&messages, piece).expect("what we sent"), messages);
    }

    #[test]
    fn control_answers_survive_any_chopping(messages in vec(control_to_host(), 0..6), piece in 1..5000usize) {
        prop_assert_eq!(sent_and_received(&messages, piece).expect("what we sent"), messages);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..4000), piece in 1..4000usize) {
        let _ = received::<exec::ToGuest>(&bytes, piece);
        let _ = received::<exec::ToHost>(&bytes, piece);
        let _ = received::<control::ToGuest>(&bytes, piece);
        let _ = received::<control::ToHost>(&bytes, piece);
    }

    #[test]
    fn a_damaged_setup_is_refused_or_valid_but_never_panics(at in any::<proptest::sample::Index>(), value in any::<u8>()) {
        let mut bytes = encode(&control::ToGuest::Setup(Box::new(full_setup()))).expect("within limits");
        let at = at.index(bytes.len());
        bytes[at] = value;
        for message in received::<control::ToGuest>(&bytes, bytes.len()).into_iter().flatten() {
            prop_assert_eq!(received::<control::ToGuest>(&encode(&message).expect("was decoded"), 7).expect("valid"), vec![message]);
        }
    }
}

#[test]
fn setup_survives_the_wire() {
    let messages = [
        control::ToGuest::Setup(Box::new(full_setup())),
        control::ToGuest::SetClock { unix_ns: 1 },
        control::ToGuest::Ping { nonce: 2 },
        control::ToGuest::Owned,
        control::ToGuest::Shutdown { grace: Duration::from_secs(10) },
    ];
    assert_eq!(sent_and_received(&messages, 11).expect("what we sent"), messages);
}

#[test]
fn another_version_is_named_before_anything_else_is_looked_at() {
    let mut hello = encode(&control::ToHost::Hello { marks: Vec::new() }).expect("short");
    hello[5..9].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let error = received::<control::ToHost>(&hello, 100).expect_err("another version");
    assert!(matches!(error, ProtocolError::Version { theirs, ours } if theirs == VERSION + 1 && ours == VERSION));
}

#[test]
fn a_length_beyond_the_kinds_limit_is_refused_before_its_body_arrives() {
    const STARTED: u8 = 1;
    let header = [0xff, 0xff, 0xff, 0xff, STARTED];
    let error = received::<exec::ToHost>(&header, 100).expect_err("4 GiB announced");
    assert!(matches!(error, ProtocolError::TooLong { kind: STARTED, .. }));
}

#[test]
fn messages_that_end_early_or_late_are_refused() {
    let whole = encode(&exec::ToHost::Credit { bytes: 7 }).expect("short");
    assert!(matches!(received::<exec::ToHost>(&whole[..7], 100), Err(ProtocolError::Closed)));
    let long = [&[5, 0, 0, 0, whole[4]], &whole[5..], &[0]].concat();
    assert!(received::<exec::ToHost>(&long, 100).is_err());
    let short = [&[3, 0, 0, 0, whole[4]], &whole[5..8]].concat();
    assert!(matches!(received::<exec::ToHost>(&short, 100), Err(ProtocolError::Malformed(_))));
}

#[test]
fn data_without_bytes_and_lists_without_end_are_refused() {
    let empty_data = [1, 0, 0, 0, 2, 1];
    assert!(received::<exec::ToHost>(&empty_data, 100).is_err());
    let endless_args = [&[8, 0, 0, 0, 1][..], &VERSION.to_le_bytes(), &u32::MAX.to_le_bytes()].concat();
    assert!(received::<exec::ToGuest>(&endless_args, 100).is_err());
}

#[test]
fn what_is_too_long_to_send_is_refused_on_the_sending_side() {
    let file = File { path: GuestPath::new("/f").expect("plain"), mode: 0o644, content: vec![0; 512 * 1024] };
    let setup = Setup { files: vec![file; 9], ..full_setup() };
    assert!(matches!(encode(&control::ToGuest::Setup(Box::new(setup))), Err(ProtocolError::TooLong { .. })));
}

#[test]
fn exit_statuses_follow_the_shell() {
    assert_eq!(Status::Exited(7).code(), 7);
    assert_eq!(Status::Signalled(Signal::new(9).expect("in range")).code(), 137);
    assert_eq!(Refusal::NotFound.code(), 127);
    assert_eq!(Refusal::NotExecutable.code(), 126);
    assert_eq!(Refusal::Other.code(), 125);
}
