//! Holds the workspace to its two dependency rules: who may depend on whom, and what must stay out of the `vmm`
//! library.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Package names by package name.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// A package may use what its row names, and whatever those may use. Nobody may use a package of the last two rows.
const MAY_USE: [(&str, &[&str]); 12] = [
    ("agent-protocol", &[]),
    ("policy", &[]),
    ("virtio", &[]),
    ("vhost-user-server", &["virtio"]),
    ("devices", &["virtio"]),
    ("netstack", &["virtio", "policy"]),
    ("vmm", &["devices", "vhost-user-server"]),
    ("launcher", &["vmm", "netstack", "agent-protocol"]),
    ("vmm-cli", &["launcher"]),
    ("guest-agent", &["agent-protocol"]),
    ("benches", &["vmm-cli"]),
    ("system-tests", &["vmm-cli"]),
];

/// Whoever links `vmm` chooses these for themselves.
const KEPT_OUT_OF_VMM: [&str; 17] = [
    "async-executor",
    "async-std",
    "futures-executor",
    "smol",
    "tokio", // async runtimes
    "aws-lc-rs",
    "boring",
    "native-tls",
    "openssl",
    "ring",
    "rustls", // TLS
    "argh",
    "clap",
    "gumdrop",
    "lexopt",
    "pico-args",
    "structopt", // argument parsing
];

#[test]
fn packages_depend_only_to_the_right() {
    let found = misplaced(&direct_dependencies(&metadata()), &reachable_everywhere(&rules()));
    assert!(found.is_empty(), "dependencies that DESIGN forbids: {found:#?}");
}

#[test]
fn every_package_has_a_rule() {
    let packages: BTreeSet<String> = direct_dependencies(&metadata()).into_keys().collect();
    assert_eq!(packages, rules().into_keys().collect());
}

#[test]
fn vmm_library_is_free_of_runtimes_tls_and_argument_parsing() {
    let linked = linked_into(&metadata(), "vmm");
    assert!(linked.contains("kvm-ioctls"), "the resolved graph looks wrong: {linked:?}");
    let found: Vec<_> = KEPT_OUT_OF_VMM.iter().filter(|name| linked.contains(**name)).collect();
    assert!(found.is_empty(), "linked into vmm: {found:?}");
}

#[test]
fn leftward_dependency_is_found() {
    let graph = graph(&[("virtio", &["policy"]), ("vmm", &["devices", "virtio"]), ("devices", &[]), ("policy", &[])]);
    assert_eq!(misplaced(&graph, &reachable_everywhere(&rules())), ["virtio -> policy"]);
}

fn rules() -> Graph {
    graph(&MAY_USE)
}

fn graph(rows: &[(&str, &[&str])]) -> Graph {
    rows.iter().map(|(from, to)| ((*from).to_owned(), to.iter().map(|name| (*name).to_owned()).collect())).collect()
}

/// For each package everything it reaches, over any number of steps.
fn reachable_everywhere(graph: &Graph) -> Graph {
    graph
        .keys()
        .map(|from| (from.clone(), reachable(from, |name| graph.get(name).into_iter().flatten().cloned())))
        .collect()
}

fn reachable<I: Iterator<Item = String>>(from: &str, next: impl Fn(&str) -> I) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut queue: VecDeque<String> = next(from).collect();
    while let Some(name) = queue.pop_front() {
        if seen.insert(name.clone()) {
            queue.extend(next(&name));
        }
    }
    seen
}

fn misplaced(graph: &Graph, allowed: &Graph) -> Vec<String> {
    let edges = graph.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
    edges
        .filter(|(from, to)| !allowed.get(*from).is_some_and(|names| names.contains(*to)))
        .map(|(from, to)| format!("{from} -> {to}"))
        .collect()
}

/// For this platform alone: what others need has not been fetched by any build.
fn metadata() -> Metadata {
    let options = ["--locked", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"];
    MetadataCommand::new().other_options(options.map(str::to_owned)).exec().unwrap()
}

/// What the manifests say; development dependencies are no part of a package and may point anywhere.
fn direct_dependencies(metadata: &Metadata) -> Graph {
    let members = metadata.workspace_packages();
    let names: BTreeSet<&str> = members.iter().map(|package| package.name.as_str()).collect();
    members
        .iter()
        .map(|package| {
            let used = package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
            let used = used.map(|dependency| dependency.name.clone()).filter(|name| names.contains(name.as_str()));
            (package.name.to_string(), used.collect())
        })
        .collect()
}

/// Every package that ends up in programs that link `root`, as cargo resolved it.
fn linked_into(metadata: &Metadata, root: &str) -> BTreeSet<String> {
    let nodes = &metadata.resolve.as_ref().unwrap().nodes;
    let linked: BTreeMap<&PackageId, Vec<&PackageId>> = nodes
        .iter()
        .map(|node| {
            let normal =
                node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
            (&node.id, normal.map(|dep| &dep.pkg).collect())
        })
        .collect();
    let name_of = |id: &PackageId| metadata[id].name.to_string();
    let root = linked.keys().find(|id| name_of(id) == root).unwrap();
    let ids = reachable(&root.repr, |repr| {
        let id = PackageId { repr: repr.to_owned() };
        linked.get(&id).into_iter().flatten().map(|id| id.repr.clone()).collect::<Vec<_>>().into_iter()
    });
    ids.into_iter().map(|repr| name_of(&PackageId { repr })).collect()
}
