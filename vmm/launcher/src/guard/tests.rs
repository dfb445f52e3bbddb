use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

fn project(folders: &[&str], files: &[(&str, &str)]) -> (TempDir, Mount) {
    let folder = tempfile::tempdir().unwrap();
    folders.iter().for_each(|name| fs::create_dir_all(folder.path().join(name)).unwrap());
    for (name, contents) in files {
        fs::write(folder.path().join(name), contents).unwrap();
    }
    let mount = Mount::project(folder.path()).unwrap();
    (folder, mount)
}

fn defaults(project: &Mount) -> Vec<String> {
    let mut guards = Guards::default();
    guards.protect_what_runs(project);
    let rules = guards.of_share(&project.host);
    assert!(rules.iter().all(|guarded| guarded.rule == Rule::Protect));
    rules.into_iter().map(|guarded| guarded.path.into_os_string().into_string().unwrap()).collect()
}

fn assert_covers(found: &[String], expected: &[&str]) {
    for path in expected {
        assert!(found.iter().any(|found| found == path), "{path} is missing in {found:?}");
    }
}

#[test]
fn repository_protects_what_git_runs_whether_there_or_not() {
    let (_folder, project) = project(&[".git/hooks"], &[(".git/config", "")]);
    let found = defaults(&project);
    assert_covers(
        &found,
        &[".git/hooks", ".git/config", ".git/config.worktree", ".git/commondir", ".envrc", ".vscode"],
    );
    assert!(!found.iter().any(|path| path == ".git" || path.contains("index")), "{found:?}");
}

#[test]
fn folder_without_git_may_become_a_repository() {
    let (_folder, project) = project(&[], &[]);
    assert_eq!(defaults(&project), AT_THE_ROOT);
}

#[test]
fn hooks_and_configuration_elsewhere_are_protected_there() {
    let config = "[core]\n\thooksPath = .husky\n[include] path = \"../shared.conf\"\n";
    let (_folder, project) = project(&[".git", ".husky"], &[(".git/config", config)]);
    assert_covers(&defaults(&project), &[".husky", "shared.conf"]);
}

#[test]
fn linked_worktree_is_followed_to_its_repository() {
    let (_folder, project) = project(
        &["main/.git/worktrees/side", "main/.git/hooks"],
        &[("main/.git/config", ""), ("main/.git/worktrees/side/commondir", "../..\n")],
    );
    let gitdir = format!("gitdir: {}\n", project.host.join("main/.git/worktrees/side").display());
    fs::write(project.host.join(".git"), gitdir).unwrap();
    let found = defaults(&project);
    assert_covers(&found, &[".git", "main/.git/worktrees/side/commondir", "main/.git/worktrees/side/gitdir"]);
    assert_covers(&found, &["main/.git/hooks", "main/.git/config"]);
}

#[test]
fn submodules_and_worktrees_inside_are_protected() {
    let config = "[core]\n\tworktree = ../../../../lib/sub\n";
    let (_folder, project) = project(
        &[".git/modules/lib/sub/hooks", ".git/worktrees/side", "lib/sub"],
        &[(".git/modules/lib/sub/HEAD", ""), (".git/modules/lib/sub/config", config)],
    );
    let tree = project.host.join("trees/side/.git");
    fs::write(project.host.join(".git/worktrees/side/gitdir"), format!("{}\n", tree.display())).unwrap();
    let found = defaults(&project);
    assert_covers(
        &found,
        &[".git/modules/lib/sub/hooks", ".git/modules/lib/sub/config", "lib/sub/.git", "trees/side/.git"],
    );
    assert_covers(&found, &[".git/worktrees/side/commondir"]);
}

#[test]
fn links_are_protected_with_what_they_lead_to() {
    let (_folder, project) = project(&[".git/hooks", "tools"], &[("tools/hook", ""), ("real-envrc", "")]);
    symlink("../../tools/hook", project.host.join(".git/hooks/pre-commit")).unwrap();
    symlink("real-envrc", project.host.join(".envrc")).unwrap();
    assert_covers(&defaults(&project), &["tools/hook", ".envrc", "real-envrc"]);
}

#[test]
fn links_in_a_circle_end() {
    let (_folder, project) = project(&[".git"], &[]);
    symlink("b", project.host.join("a")).unwrap();
    symlink("a", project.host.join("b")).unwrap();
    let mut guards = Guards::default();
    guards.add(Rule::Hide, Path::new("a/x"), &project, std::iter::once(&project)).unwrap();
    assert!(guards.of_share(&project.host).iter().any(|guarded| guarded.path == Path::new("b")));
}

#[test]
fn paths_are_named_from_the_project_and_lie_in_a_share() {
    let (_folder, project) = project(&[], &[]);
    let other = Mount { host: "/srv/data".into(), guest: "/data".into(), is_read_only: false };
    let mut guards = Guards::default();
    let mut add = |rule, path: &str| guards.add(rule, Path::new(path), &project, [&project, &other].into_iter());
    add(Rule::Hide, ".env").unwrap();
    add(Rule::Protect, "/srv/data/keep").unwrap();
    assert!(add(Rule::Hide, "../elsewhere").is_err());
    assert!(add(Rule::Hide, "/etc/shadow").is_err());
    assert!(add(Rule::Hide, "/srv/data").is_err(), "a share that is not there cannot be mounted");
    assert_eq!(guards.of_share(&project.host), [Guarded { path: ".env".into(), rule: Rule::Hide }]);
    assert_eq!(guards.of_share(Path::new("/srv/data")), [Guarded { path: "keep".into(), rule: Rule::Protect }]);
    assert_eq!(guards.of_share(Path::new("/srv/data/keep/inner")), [Guarded { path: "".into(), rule: Rule::Protect }]);
}

#[test]
fn stricter_rule_counts() {
    let (_folder, project) = project(&[".git"], &[]);
    let mut guards = Guards::default();
    guards.protect_what_runs(&project);
    guards.add(Rule::Hide, Path::new(".envrc"), &project, std::iter::once(&project)).unwrap();
    let rules = guards.of_share(&project.host);
    assert!(rules.contains(&Guarded { path: ".envrc".into(), rule: Rule::Hide }));
}
