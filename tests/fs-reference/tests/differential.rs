//! Any sequence of requests has the same outcome with every server, and leaves the same files behind. Where ours
//! differs, it is on a list, with the reason: `difference.rs`.

use fs_reference::difference::{Verdict, is_served, judge};
use fs_reference::operation::{Operation, operation};
use fs_reference::player::Player;
use fs_reference::servers::Kind;
use fs_reference::tree;
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use rustix::io::Errno;

/// Sequences played unless `VMM_FS_SEQUENCES` says how many.
const SEQUENCES: u32 = 150;
/// Requests in the longest sequence.
const LENGTH: usize = 80;

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Plays sequences to our server and another.
fn compare_with(other: Kind) {
    let seed = number("VMM_FS_SEED").unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a time after 1970");
        u64::from(now.subsec_nanos()) << 32 | u64::from(std::process::id())
    });
    println!("VMM_FS_SEED={seed} plays the same sequences again");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let cases = number("VMM_FS_SEQUENCES").unwrap_or(SEQUENCES);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let played = runner.run(&vec(operation(), 1..LENGTH), |operations| play(other, &operations));
    if let Err(error) = played {
        panic!("{error}");
    }
}

fn play(other: Kind, operations: &[Operation]) -> Result<(), TestCaseError> {
    let mut ours = Player::new(Kind::Ours);
    let mut theirs = Player::new(other);
    for (step, operation) in operations.iter().enumerate() {
        if !ours.can_play(operation) || !is_served(other, operation) {
            continue;
        }
        let our = ours.play(operation);
        if our == Err(Errno::NOSYS) {
            continue;
        }
        let their = theirs.play(operation);
        match judge(other, operation, &our, &their) {
            Verdict::GoOn => {}
            Verdict::End => return Ok(()),
            Verdict::Unknown => {
                let text = format!("step {step}, {operation:?}: ours {our:?}, {} {their:?}", other.name());
                return Err(TestCaseError::fail(text));
            }
        }
    }
    let (our, their) = (tree::read(&ours.share()), tree::read(&theirs.share()));
    if our == their {
        return Ok(());
    }
    let differing = our.iter().filter(|(path, file)| their.get(*path) != Some(file));
    let missing = their.keys().filter(|path| !our.contains_key(*path));
    Err(TestCaseError::fail(format!(
        "files of ours {:?}, only theirs {:?}",
        differing.collect::<Vec<_>>(),
        missing.collect::<Vec<_>>()
    )))
}

#[test]
fn sequences_end_as_with_virtiofsd() {
    compare_with(Kind::Virtiofsd);
}

#[test]
fn sequences_end_as_with_fuse_backend_rs() {
    compare_with(Kind::FuseBackend);
}
