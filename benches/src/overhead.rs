//! What a VM costs beside its RAM: proportional set size of its processes, less the mapping of the guest's memory.

use std::fs;

use anyhow::Context;
use serde::Serialize;

/// Whom to look at.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process of the VM; its children count too
    pid: u32,
    /// Exit with status 1 if the overhead exceeds this
    #[arg(long, value_name = "KIB")]
    at_most: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    guest_ram_kib: u64,
    overhead_kib: u64,
    /// The largest mappings of the overhead, by name.
    largest: Vec<Mapping>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Mapping {
    name: String,
    pss_kib: u64,
}

/// Measures, prints, and answers whether `--at-most` holds.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let mut mappings = Vec::new();
    for pid in family(args.pid)? {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps")).with_context(|| format!("process {pid}"))?;
        mappings.extend(parse(&text));
    }
    let is_ram = |mapping: &Mapping| mapping.name.starts_with("/memfd:") && mapping.name.contains("ram");
    let total = |wanted: bool| mappings.iter().filter(|m| is_ram(m) == wanted).map(|m| m.pss_kib).sum::<u64>();
    let (guest_ram_kib, overhead_kib) = (total(true), total(false));
    let mut largest: Vec<Mapping> = mappings.into_iter().filter(|mapping| !is_ram(mapping)).collect();
    largest.sort_by_key(|mapping| std::cmp::Reverse(mapping.pss_kib));
    largest.truncate(12);
    println!("{}", serde_json::to_string_pretty(&Report { guest_ram_kib, overhead_kib, largest })?);
    Ok(args.at_most.is_none_or(|limit| overhead_kib <= limit))
}

/// The process and all that descend from it.
fn family(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut family = vec![pid];
    let mut index = 0;
    while let Some(parent) = family.get(index) {
        for task in fs::read_dir(format!("/proc/{parent}/task")).with_context(|| format!("process {parent}"))? {
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        index += 1;
    }
    Ok(family)
}

/// Mappings of an smaps file, those of one name added up. Anonymous ones are called `anonymous`.
fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut name = "anonymous";
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Pss:") => {
                let pss_kib = words.next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
                match mappings.iter_mut().find(|mapping| mapping.name == name) {
                    Some(mapping) => mapping.pss_kib += pss_kib,
                    None => mappings.push(Mapping { name: name.into(), pss_kib }),
                }
            }
            Some(first) if !first.ends_with(':') => name = words.nth(4).unwrap_or("anonymous"),
            _ => {}
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_one_name_are_added_up() {
        let smaps = "\
1000-2000 r-xp 00000000 08:01 7    /usr/bin/vmm
Size:                  4 kB
Pss:                   4 kB
2000-3000 rw-p 00000000 00:00 0
Pss:                   2 kB
3000-4000 rw-p 00001000 08:01 7    /usr/bin/vmm
Pss:                   1 kB
4000-5000 rw-s 00000000 00:01 9    /memfd:guest-ram (deleted)
Pss:                 512 kB
";
        let mapping = |name: &str, pss_kib| Mapping { name: name.into(), pss_kib };
        assert_eq!(
            parse(smaps),
            [mapping("/usr/bin/vmm", 5), mapping("anonymous", 2), mapping("/memfd:guest-ram", 512)]
        );
    }
}
