//! How long the worker looks for the guest's next request before it goes to sleep.
//!
//! Most requests come one by one: the guest waits for an answer, works with it for a moment and asks again. To put the
//! worker to sleep in between, and to have it woken by a kick, takes longer than most requests themselves. So while
//! requests keep coming at such a pace the worker stays awake, and the guest is spared its kicks; as soon as they do
//! not, it sleeps at once. It also does where more threads want the host's CPUs than there are, and with one CPU always:
//! there it would keep the guest, or whoever else has work to do, from doing it. Our own kernel looks for answers in
//! the same manner ([`feature::ANSWERS_SOON`](super::wire::feature)).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

/// Longest time awake without a request: a guest whose CPUs are emulated needs half of it from an answer to its next
/// request (measured: longer gains nothing), one with CPUs of the host's a tenth.
const LONGEST: Duration = Duration::from_micros(300);
/// Requests in time after which it is worth to stay awake; misses count as much.
const TRUST: u8 = 4;
const MOST_TRUST: u8 = 16;
/// How often those who want a CPU are counted, which takes a few microseconds.
const COUNT_EVERY: Duration = Duration::from_millis(1);
/// How long to sleep at once where there were too many of them.
const REST: Duration = Duration::from_millis(20);

/// What the pace of requests has been, and whether there is a CPU to spare.
#[derive(Debug)]
pub(super) struct Linger {
    /// When the last request was answered.
    last: Option<Instant>,
    trust: u8,
    cpus: Cpus,
    /// More wanted a CPU than there are when that was counted last.
    is_crowded: bool,
    /// When to count again.
    counts_at: Option<Instant>,
}

/// The host's CPUs, and who wants them.
#[derive(Debug)]
struct Cpus {
    count: usize,
    /// `/proc/loadavg`, open: the worker may not open it.
    load: Option<File>,
}

impl Cpus {
    fn of_this_machine() -> Self {
        Self { count: count_cpus(), load: File::open("/proc/loadavg").ok() }
    }

    /// More threads want to run than can, the one that asks among them; not known is no.
    fn are_too_few(&self) -> bool {
        self.wanted().is_some_and(|wanted| wanted > self.count)
    }

    /// How many threads run or want to (proc_loadavg(5), the fourth field): all of this machine, also on CPUs that are
    /// not for us.
    fn wanted(&self) -> Option<usize> {
        let mut line = [0; 64];
        let length = self.load.as_ref()?.read_at(&mut line, 0).ok()?;
        let threads = str::from_utf8(line.get(..length)?).ok()?.split(' ').nth(3)?;
        threads.split_once('/')?.0.parse().ok()
    }
}

fn count_cpus() -> usize {
    // Who cannot count them most likely has several.
    thread::available_parallelism().map_or(2, Into::into)
}

/// Whether the guest runs while the worker stays awake: with one CPU it does not.
pub(super) fn has_company() -> bool {
    count_cpus() > 1
}

impl Linger {
    pub(super) fn new() -> Self {
        Self::with(Cpus::of_this_machine())
    }

    fn with(cpus: Cpus) -> Self {
        Self { last: None, trust: 0, cpus, is_crowded: false, counts_at: None }
    }

    /// Requests were found in a queue, and answered by now.
    pub(super) fn served(&mut self, found: Instant, now: Instant) {
        let is_soon = self.last.is_some_and(|last| found.saturating_duration_since(last) <= LONGEST);
        self.trust = if is_soon { self.trust.saturating_add(1).min(MOST_TRUST) } else { self.trust.saturating_sub(1) };
        self.last = Some(now);
    }

    /// Whether to look once more instead of going to sleep.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        self.cpus.count > 1
            && self.trust >= TRUST
            && self.last.is_some_and(|last| now.saturating_duration_since(last) <= LONGEST)
            && !self.is_crowded(now)
    }

    fn is_crowded(&mut self, now: Instant) -> bool {
        if self.counts_at.is_none_or(|then| then <= now) {
            self.is_crowded = self.cpus.are_too_few();
            self.counts_at = Some(now + if self.is_crowded { REST } else { COUNT_EVERY });
        }
        self.is_crowded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(20);
    const LATER: Duration = Duration::from_millis(5);

    /// After so many requests, each so long after the last answer; and the moment of that.
    fn after(requests: u32, gap: Duration) -> (Linger, Instant) {
        let mut linger = Linger::with(Cpus { count: 2, load: None });
        let mut now = Instant::now();
        for _ in 0..requests {
            now += gap;
            linger.served(now, now);
        }
        (linger, now)
    }

    /// A machine with two CPUs that so many threads want.
    fn wanted_by(threads: usize) -> Cpus {
        let load = tempfile::tempfile().unwrap();
        load.write_all_at(format!("0.31 0.25 0.19 {threads}/412 5162\n").as_bytes(), 0).unwrap();
        Cpus { count: 2, load: Some(load) }
    }

    #[test]
    fn stays_awake_for_requests_that_keep_coming_and_not_for_long() {
        let (mut linger, now) = after(10, SOON);
        assert!(linger.goes_on(now + SOON));
        assert!(!linger.goes_on(now + LATER));
    }

    #[test]
    fn sleeps_at_once_where_requests_are_few_or_far_between() {
        for (mut linger, now) in [after(0, SOON), after(1, SOON), after(100, LATER)] {
            assert!(!linger.goes_on(now));
        }
    }

    #[test]
    fn leaves_the_only_cpu_to_the_guest() {
        let (mut linger, now) = after(1000, SOON);
        linger.cpus.count = 1;
        assert!(!linger.goes_on(now));
    }

    #[test]
    fn leaves_its_cpu_to_others_who_want_it_and_looks_again_whether_they_do() {
        let (mut linger, mut now) = after(1000, SOON);
        linger.cpus = wanted_by(3);
        assert!(!linger.goes_on(now));
        linger.cpus = wanted_by(2);
        now += REST / 2;
        linger.served(now, now);
        assert!(!linger.goes_on(now), "has just been looked at");
        now += REST;
        linger.served(now, now);
        assert!(linger.goes_on(now));
    }

    #[test]
    fn threads_of_this_machine_can_be_counted() {
        let wanted = Cpus::of_this_machine().wanted();
        assert!(wanted.is_some_and(|threads| threads > 0), "{wanted:?}");
    }

    #[test]
    fn stops_to_stay_awake_when_requests_stop_to_come_soon() {
        let (mut linger, mut now) = after(1000, SOON);
        for _ in 0..MOST_TRUST {
            now += LATER;
            linger.served(now, now);
        }
        assert!(!linger.goes_on(now));
    }
}
