//! What a guest reaches, judged by the log of the fake internet: an address that was reached stands in it.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use system_tests::Stage;

/// Addresses nobody but the public internet has; the fake internet answers on every address there is.
const ALLOWED: [&str; 2] = ["93.184.216.34", "[2606:2800:220:1::34]"];

/// Private, link-local, metadata, loopback, the host's own, multicast, and IPv6 forms that carry an IPv4 address.
const REFUSED: [&str; 21] = [
    "10.0.0.5",
    "172.16.3.4",
    "192.168.1.1",
    "100.64.7.7",
    "169.254.169.254",
    "192.0.2.2",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "100.96.0.1",
    "10-0-0-5.ip.test",
    "private.test",
    "meta.test",
    "loop.test",
    "[fd00::1]",
    "[fe80::1]",
    "[2001:db8::2]",
    "[::ffff:10.0.0.5]",
    "[64:ff9b::10.0.0.5]",
    "[2002:a00:5::1]",
];

pub fn public_addresses_work_and_others_are_refused(stage: &Stage) -> Result<()> {
    let log = stage.folder().join("log");
    fs::write(&log, "")?;
    let get = "get() { curl -s --max-time 20 -o /dev/null -w '%{http_code}' \"http://$1/$2\"; echo \" exit $?\"; }";
    let allowed = ALLOWED.map(|address| format!("echo \"allowed {address} $(get '{address}' allowed)\"")).join("\n");
    let refused = REFUSED.map(|address| format!("echo \"refused {address} $(get '{address}' refused)\"")).join("\n");
    let mut run = stage.run(&format!("{get}\n{allowed}\necho \"allowed v4.test $(get v4.test named)\"\n{refused}"));
    let text = in_front_of_fake_internet(run.through::<&str>([]), &log).finish()?.succeeded()?;
    let log = fs::read_to_string(&log)?;
    for line in text.lines().filter(|line| line.starts_with("allowed ")) {
        ensure!(line.contains(" 200 "), "{line}\nlog:\n{log}");
    }
    let refused: Vec<_> = text.lines().filter(|line| line.starts_with("refused ")).collect();
    ensure!(refused.len() == REFUSED.len(), "{text}");
    for line in refused {
        ensure!(line.contains(" 000 exit "), "reached: {line}\nlog:\n{log}");
        ensure!(!line.ends_with(" exit 28"), "dropped where a refusal would be told at once: {line}");
    }
    ensure!(log.contains(" /named "), "the public name was not reached:\n{log}");
    ensure!(
        log.lines().any(|line| line.starts_with("dns ") && line.ends_with(" v4.test")),
        "nobody was asked for the name:\n{log}"
    );
    ensure!(!log.contains("/refused"), "the fake internet saw a refused request:\n{log}");
    Ok(())
}

pub fn no_network_means_none(stage: &Stage) -> Result<()> {
    let log = stage.folder().join("log");
    fs::write(&log, "")?;
    let mut run =
        stage.run("ls /sys/class/net | grep -v dummy; curl -s --max-time 5 http://93.184.216.34/ || echo unreachable");
    run.args(["--no-network"]);
    let text = in_front_of_fake_internet(&mut run, &log).finish()?.succeeded()?;
    ensure!(text == "lo\nunreachable", "{text}");
    ensure!(fs::read_to_string(&log)?.is_empty());
    Ok(())
}

pub fn in_front_of_fake_internet<'a>(
    run: &'a mut system_tests::Invocation,
    log: &Path,
) -> &'a mut system_tests::Invocation {
    let fakenet = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/fakenet");
    run.through([fakenet.as_os_str(), "-l".as_ref(), log.as_os_str(), "--".as_ref()])
}
