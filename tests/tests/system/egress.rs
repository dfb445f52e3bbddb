//! Egress policies from inside real guests: one guest per policy tries everything (`probe.py`), and the fake internet's
//! log is the judge of what got out. Labels begin with the number of the case that they are a try of.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::{Finished, Invocation, Stage};

use crate::network::in_front_of_fake_internet;

/// Dozens of tries, some of which wait for an answer that must not come, in an emulated guest of an emulated machine.
const PATIENCE: Duration = Duration::from_secs(500);
const PROBE: &str = include_str!("probe.py");
/// What was tried must get an answer, and this is what a guest hears of what was not allowed.
const ANSWERED: &str = "answered";
const REFUSED: &str = "ECONNREFUSED";
/// The same of a datagram: its ICMP error says that it is administratively prohibited.
const PROHIBITED: &str = "EHOSTUNREACH";
/// A connection that was made and then said for whom it is.
const CUT: &str = "ECONNRESET";

/// What one guest tried, and what the outside saw of it.
struct Probed {
    outcomes: BTreeMap<String, String>,
    log: String,
}

impl Probed {
    /// Runs the tries called `name` in a guest with these options.
    fn run(stage: &Stage, name: &str, options: &[&str], prepare: impl Fn(&mut Invocation)) -> Result<Self> {
        fs::write(stage.project().join("probe.py"), PROBE)?;
        let log = stage.folder().join("log");
        fs::write(&log, "")?;
        let mut run = stage.run(&format!("exec python3 probe.py {name}"));
        run.args(options).patience(PATIENCE);
        prepare(&mut run);
        let finished = in_front_of_fake_internet(&mut run, &log).finish()?;
        Self::read(&finished, fs::read_to_string(&log)?)
    }

    fn read(finished: &Finished, log: String) -> Result<Self> {
        let text = finished.succeeded()?;
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        let outcomes: BTreeMap<_, _> = pairs.map(|(label, outcome)| (label.into(), outcome.into())).collect();
        ensure!(outcomes.contains_key("end"), "the guest did not try everything; {finished}");
        Ok(Self { outcomes, log })
    }

    /// Each of these labels came out so.
    fn came_out(&self, expected: &[(&str, &str)]) -> Result<()> {
        for (label, expected) in expected {
            let outcome = self.outcomes.get(*label).with_context(|| format!("{label} was not tried"))?;
            ensure!(outcome.starts_with(expected), "{label}: {outcome} instead of {expected}\nlog:\n{}", self.log);
        }
        Ok(())
    }

    /// No label that begins so got an answer; how it was told matters less than that.
    fn nothing_answered(&self, prefix: &str) -> Result<()> {
        let tried: Vec<_> = self.outcomes.iter().filter(|(label, _)| label.starts_with(prefix)).collect();
        ensure!(!tried.is_empty(), "{prefix} was not tried");
        for (label, outcome) in tried {
            ensure!(outcome != ANSWERED && outcome != "empty", "{label}: {outcome}\nlog:\n{}", self.log);
        }
        Ok(())
    }

    /// The outside saw something with each of these words in one line.
    fn was_seen(&self, words: &[&str]) -> Result<()> {
        let is_it = |line: &str| words.iter().all(|word| line.contains(word));
        ensure!(self.log.lines().any(is_it), "nobody saw {words:?}\nlog:\n{}", self.log);
        Ok(())
    }

    /// The outside saw nothing with any of these words.
    fn was_not_seen(&self, words: &[&str]) -> Result<()> {
        for word in words {
            ensure!(!self.log.contains(word), "{word:?} got out\nlog:\n{}", self.log);
        }
        Ok(())
    }
}

pub fn a_closed_policy_lets_nothing_out(stage: &Stage) -> Result<()> {
    let probed = Probed::run(stage, "none", &["--egress", "none"], |_| {})?;
    probed.came_out(&[("1", REFUSED), ("1-v6", REFUSED), ("1-udp", PROHIBITED)])?;
    probed.came_out(&[("2", "REFUSED"), ("2-tcp", "REFUSED")])?;
    ensure!(probed.log.is_empty(), "something got out:\n{}", probed.log);
    Ok(())
}

pub fn an_allow_list_opens_what_it_names_and_nothing_else(stage: &Stage) -> Result<()> {
    let names = ["api.example.com:443", "*.pkg.example:443", "private.test", "meta.test", "loop.test"];
    let mut options = vec!["--egress", "none"];
    names.iter().for_each(|name| options.extend(["--allow-egress", name]));
    let probed = Probed::run(stage, "list", &options, |_| {})?;
    probed.came_out(&[
        ("5", REFUSED),
        ("3", "REFUSED"),
        ("17-near", "REFUSED"),
        ("17-inside", "REFUSED"),
        ("17-apex", "REFUSED"),
        ("4", "NOERROR 93.184.216.34"),
        ("6-resolve", "NOERROR 93.184.216.34"),
        ("6", ANSWERED),
        ("6-other-port", REFUSED),
        ("7", CUT),
        ("8", CUT),
        ("13", CUT),
        ("18", PROHIBITED),
        ("19", PROHIBITED),
        ("21", REFUSED),
        ("21-dot", REFUSED),
        ("23-udp", "NOERROR 93.184.216.34"),
        ("23-tcp", "NOERROR 93.184.216.34"),
        ("23-not-allowed", "REFUSED"),
        ("57", REFUSED),
        ("57-resolver", "gaierror"),
    ])?;
    // Addresses that a name may not lead to are withheld, and closed to who knows them.
    for name in ["private.test", "meta.test", "loop.test"] {
        let outcome = probed.outcomes.get(&format!("25-{name}")).map(String::as_str);
        ensure!(matches!(outcome, Some("NOERROR" | "NXDOMAIN")), "{name}: {outcome:?}");
    }
    probed.nothing_answered("25-")?;
    probed.nothing_answered("57-address")?;
    probed.was_seen(&["stream 93.184.216.34 443", "api.example.com"])?;
    // The name was asked of the host's resolver, whichever server the guest had in mind.
    probed.was_seen(&["dns 192.0.2.1 53", " api.example.com"])?;
    let strangers = ["dns 8.8.8.8", "dns 9.9.9.9", " 10.0.0.5 ", " 169.254.169.254 ", " 127.0.0.2 ", " 1.1.1.1 "];
    probed.was_not_seen(&strangers)?;
    probed.was_not_seen(&["evil", " pkg.example", "http ", "echo ", "151.101.1.69"])
}

pub fn the_public_internet_is_open_and_everything_else_is_not(stage: &Stage) -> Result<()> {
    // Services of the host: one that the policy opens, on one family of loopback only, and others that it does not.
    const SERVICES: &str = r#"
        python3 - "$1" <<'END' &
import socket, sys, threading
def serve(address, port):
    s = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    def answer():
        while True:
            c, _ = s.accept()
            open(sys.argv[1], "a").write(f"service {address} {port}\n")
            c.recv(4096)  # closed with something unread, the connection would be reset
            c.sendall(b"here\n")
            c.close()
    threading.Thread(target=answer).start()
serve("::1", 8080)
for port in (22, 5432, 8081): serve("127.0.0.1", port)
serve("192.0.2.2", 8080)
open(sys.argv[1] + ".ready", "w").close()
END
        services=$!
        trap 'kill $services' EXIT
        while ! [ -e "$1.ready" ]; do sleep 0.05; done
        shift
        "$@"
    "#;
    let log = stage.folder().join("log");
    let probed = Probed::run(stage, "public", &["--allow-host", "8080"], |run| {
        run.through(["sh", "-euc", SERVICES, "sh"].map(OsStr::new).into_iter().chain([log.as_os_str()]));
    })?;
    probed.came_out(&[("open", ANSWERED), ("41", ANSWERED), ("41-own-address", REFUSED), ("32-name", "REFUSED")])?;
    probed.came_out(&[("40-22", REFUSED), ("40-5432", REFUSED), ("40-8081", REFUSED)])?;
    for prefix in ["32-", "33-", "37-", "38-"] {
        probed.nothing_answered(prefix)?;
    }
    let refused_at_once = |(label, _): &(&String, &String)| label.starts_with("32-1") || label.starts_with("38-1");
    for (label, outcome) in probed.outcomes.iter().filter(refused_at_once) {
        ensure!(outcome == REFUSED, "{label}: {outcome}, where a refusal would be told at once");
    }
    probed.was_seen(&["/open "])?;
    probed.was_seen(&["service ::1 8080"])?;
    probed.was_seen(&["echo 93.184.216.34 7", "42-plain"])?;
    probed.was_not_seen(&["service 1", "/32-", "/33-", "/38-", "/40-", " 37-", "metadata", "packet "])?;
    probed.was_not_seen(&["42-address", "42-mac", "42-vlan", "42-tunnel", "36-martian"])
}

pub fn settings_files_decide_what_a_guest_reaches(stage: &Stage) -> Result<()> {
    let config = stage.folder().join("config/vmm");
    fs::create_dir_all(&config)?;
    let project = stage.project().canonicalize()?;
    let table =
        format!("[policy]\negress = \"open\"\n[project.{project:?}.policy]\nallow = [\"v4.test:80\", \"a.test\"]\n");
    fs::write(config.join("config.toml"), table)?;
    fs::write(project.join("vmm.toml"), "[policy]\ndeny = [\"a.test\"]\n")?;
    let log = stage.folder().join("log");
    fs::write(&log, "")?;
    let script = "for url in v4.test/named a.test/narrowed 93.184.216.35/literal 10.0.0.5/private; do
                      curl -s --max-time 20 -o /dev/null http://$url && echo $url
                  done; echo wider >vmm.toml; rm vmm.toml; true";
    let mut run = stage.run(script);
    let finished = in_front_of_fake_internet(&mut run, &log).finish()?;
    ensure!(finished.succeeded()? == "v4.test/named", "{finished}");
    // The banner is what the data plane reports.
    for line in ["==> network: nothing but", "==> network: allow v4.test:80", "==> network: allow a.test"] {
        ensure!(finished.stderr.contains(line), "{line:?} is not in the banner; {finished}");
    }
    let log = fs::read_to_string(&log)?;
    ensure!(log.contains("/named ") && !log.contains("a.test") && !log.contains("/literal"), "{log}");
    ensure!(fs::read_to_string(project.join("vmm.toml"))?.contains("a.test"), "the guest changed vmm.toml");

    let explain = |destination: &str| {
        stage.vmm(["policy", "explain", "--project"]).args([project.as_os_str(), destination.as_ref()]).finish()
    };
    explain("http://v4.test")?.ended_with(0)?;
    explain("http://93.184.216.35")?.ended_with(1)?;
    let denied = explain("https://a.test")?;
    denied.ended_with(1)?;
    ensure!(denied.text().contains("vmm.toml:2"), "{denied}");
    let expectations = project.join("expected.toml");
    fs::write(&expectations, "allow = [\"http://v4.test\"]\ndeny = [\"10.0.0.5:22\"]\n")?;
    let test = || stage.vmm(["policy", "test", "--project"]).args([&project, &expectations]).finish();
    test()?.ended_with(0)?;
    fs::write(&expectations, "deny = [\"http://v4.test\"]\n")?;
    test()?.ended_with(1)
}

pub fn the_host_s_proxy_is_the_only_way_out(stage: &Stage) -> Result<()> {
    let log = stage.folder().join("log");
    fs::write(&log, "")?;
    let script = "env | grep -i proxy
                  for url in http://93.184.216.34/plain http://v4.test/named https://93.184.216.34/secure; do
                      curl -s --max-time 20 -o /dev/null $url; echo $url ended
                  done
                  curl -s --max-time 20 http://151.101.1.69/excepted";
    let mut run = stage.run(script);
    // Port 80 goes by a proxy that grants, the rest by one that nobody runs.
    run.env("http_proxy", "http://user:secret@192.0.2.1:8080").env("HTTPS_PROXY", "192.0.2.1:1");
    run.env("NO_PROXY", "151.101.0.0/16");
    let finished = in_front_of_fake_internet(&mut run, &log).finish()?;
    let text = finished.succeeded()?;
    ensure!(text.lines().count() == 4 && text.ends_with("151.101.1.69") && text.starts_with("http:"), "{finished}");
    let log = fs::read_to_string(&log)?;
    for asked in ["CONNECT 93.184.216.34:80", "CONNECT v4.test:80"] {
        let is_it = |line: &str| line.starts_with("http 192.0.2.1 8080 ") && line.contains(asked);
        ensure!(log.lines().any(is_it), "the proxy was not asked to {asked}:\n{log}");
    }
    ensure!(log.contains("http 151.101.1.69 80 "), "what is excepted did not go out directly:\n{log}");
    ensure!(!log.contains("http 93.184.216.34") && !log.contains("stream "), "something went around the proxy:\n{log}");
    Ok(())
}

pub fn bad_policies_are_refused(stage: &Stage) -> Result<()> {
    let config = stage.folder().join("config/vmm");
    fs::create_dir_all(&config)?;
    let refused = |finished: &Finished, words: &[&str]| -> Result<()> {
        finished.ended_with(125)?;
        ensure!(!finished.stderr.contains("panicked"), "{finished}");
        words.iter().try_for_each(|word| {
            ensure!(finished.stderr.contains(word), "{word:?} is not in the error; {finished}");
            Ok(())
        })
    };
    let with_options = |options: &[&str]| stage.run("true").args(options).finish();
    refused(&with_options(&["--allow-egress", "*.com"])?, &["--allow-egress", "*.com", "*.example.com"])?;
    refused(&with_options(&["--allow-egress", "10.0.0.1/8"])?, &["10.0.0.1/8", "10.0.0.0/8"])?;
    refused(&with_options(&["--allow-egress", "github.com"])?, &["github.com", "--egress none"])?;
    refused(&with_options(&["--no-network", "--allow-lan"])?, &["--no-network", "--allow-lan"])?;
    for (text, words) in [
        ("cpu = 2\n", &["config.toml:1: ", "cpu", "cpus"][..]),
        ("[policy]\r\nallow = [\"*\"]\r\n", &["config.toml:2: policy.allow", "api.example.com:443"]),
        ("[policy]\nhost = [\"http\"]\n", &["config.toml:2: policy.host", "http", "host = [5432]"]),
    ] {
        fs::write(config.join("config.toml"), text)?;
        refused(&with_options(&[])?, words)?;
    }
    fs::write(config.join("config.toml"), "")?;
    fs::write(stage.project().join("vmm.toml"), "[policy]\negress = \"open\"\n")?;
    refused(&with_options(&[])?, &["vmm.toml:2: policy.egress", "can only narrow"])
}
