//! What is wrong in a settings file, in words that lead to a right one.

use std::path::PathBuf;

/// A settings file that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {}{problem}{}", path.display(), at(*line), of(key), such_as(example))]
pub struct SettingsError {
    pub(crate) path: PathBuf,
    pub(crate) line: Option<usize>,
    /// Dotted, empty where the file as a whole is wrong.
    pub(crate) key: String,
    pub(crate) problem: String,
    pub(crate) example: &'static str,
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(":{line}")).unwrap_or_default()
}

fn of(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

fn such_as(example: &str) -> String {
    if example.is_empty() { String::new() } else { format!(" (for example: {example})") }
}

/// A right value for each key that a settings file can hold, by the last part of the key.
const EXAMPLES: [(&str, &str); 21] = [
    ("engine", "engine = \"qemu\""),
    ("cpus", "cpus = 4"),
    ("memory", "memory = \"4G\""),
    ("disk", "disk = \"40G\""),
    ("image", "image = \"~/images/mine\""),
    ("kernel", "kernel = \"~/vmlinux\""),
    ("mounts", "mounts = [\"~/datasets:/data:ro\"]"),
    ("protect", "protect = [\"Makefile\"]"),
    ("hide", "hide = [\".env\"]"),
    ("env", "env = [\"LANG\", \"CI=true\"]"),
    ("user", "user = \"root\""),
    ("publish", "publish = [\"8080:80\", \"127.0.0.1:5353:53/udp\"]"),
    ("auto_publish", "auto_publish = true"),
    ("network", "network = false"),
    ("policy", "[policy] and below it egress = \"none\""),
    ("egress", "egress = \"none\""),
    ("allow", "allow = [\"api.example.com:443\", \"*.example.org\"]"),
    ("deny", "deny = [\"10.20.0.0/16\"]"),
    ("lan", "lan = true"),
    ("host", "host = [5432]"),
    ("project", "[project.\"/home/me/src/app\"]"),
];

/// A right value for a dotted key with indices, as in `policy.allow[2]`; empty for an unknown one.
pub(crate) fn example_of(key: &str) -> &'static str {
    let name = key.rsplit('.').find(|part| !part.is_empty()).unwrap_or_default();
    let name = name.split('[').next().unwrap_or_default();
    EXAMPLES.iter().find(|(known, _)| *known == name).map_or("", |(_, example)| example)
}
