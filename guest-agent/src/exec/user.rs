//! Who a command runs as, from the guest's own /etc/passwd and /etc/group.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use agent_protocol::exec::User;

/// Shell and search path of users that have none.
const DEFAULT_SHELL: &[u8] = b"/bin/sh";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the guest has its users.
pub(super) const ETC: &str = "/etc";

/// User and group that commands of `user` run as; `None` for a name that is not there.
pub(crate) fn ids(user: &User) -> Option<(u32, u32)> {
    Identity::find(user, Path::new(ETC)).map(|identity| (identity.uid, identity.gid))
}

/// A user as a process needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    name: Vec<u8>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    pub(super) home: Vec<u8>,
    shell: Vec<u8>,
}

impl Identity {
    /// Looks `user` up below `etc`; `None` for a name that is not there.
    pub(super) fn find(user: &User, etc: &Path) -> Option<Self> {
        // An image without these files has root and nobody else.
        let passwd = fs::read(etc.join("passwd")).unwrap_or_default();
        let group = fs::read(etc.join("group")).unwrap_or_default();
        let mut lines = lines(&passwd).filter_map(parse);
        let mut found = match user {
            User::Root => lines.find(|line| line.uid == 0).unwrap_or_else(|| Self::nameless(0, 0)),
            User::Name(name) => lines.find(|line| line.name == name.as_bytes())?,
            User::Id { uid, gid } => {
                let named = lines.find(|line| line.uid == *uid);
                Self { gid: *gid, ..named.unwrap_or_else(|| Self::nameless(*uid, *gid)) }
            }
        };
        found.groups = found.groups_in(&group);
        Some(found)
    }

    fn nameless(uid: u32, gid: u32) -> Self {
        let (name, home): (&[u8], &[u8]) = if uid == 0 { (b"root", b"/root") } else { (b"", b"/") };
        Self { name: name.into(), uid, gid, groups: Vec::new(), home: home.into(), shell: DEFAULT_SHELL.into() }
    }

    /// Its own group and those that list its name.
    fn groups_in(&self, group: &[u8]) -> Vec<u32> {
        let listed = lines(group).filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
            let [_, _, gid, members] = fields.as_slice() else { return None };
            let is_member = !self.name.is_empty() && members.split(|byte| *byte == b',').any(|name| name == self.name);
            if is_member { number(gid) } else { None }
        });
        let mut groups: Vec<u32> = listed.chain([self.gid]).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// What a login would set.
    pub(super) fn environment(&self) -> Vec<(OsString, OsString)> {
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let mut environment = vec![
            ("HOME".into(), text(&self.home)),
            ("SHELL".into(), text(&self.shell)),
            ("PATH".into(), DEFAULT_PATH.into()),
            ("LANG".into(), "C.UTF-8".into()),
        ];
        if !self.name.is_empty() {
            environment.push(("USER".into(), text(&self.name)));
            environment.push(("LOGNAME".into(), text(&self.name)));
        }
        environment
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n')
}

/// A line of passwd(5).
fn parse(line: &[u8]) -> Option<Identity> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
    let [name, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
    let or = |value: &[u8], default: &[u8]| if value.is_empty() { default.to_vec() } else { value.to_vec() };
    Some(Identity {
        name: name.to_vec(),
        uid: number(uid)?,
        gid: number(gid)?,
        groups: Vec::new(),
        home: or(home, b"/"),
        shell: or(shell, DEFAULT_SHELL),
    })
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use agent_protocol::bytes::Word;
    use agent_protocol::exec::User;

    use super::Identity;

    fn etc() -> tempfile::TempDir {
        let etc = tempfile::tempdir().unwrap();
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\nbroken line\nagent:x:1000:1001:,,,:/home/agent:/bin/zsh\nsvc:x:7:7:::\n";
        std::fs::write(etc.path().join("passwd"), passwd).unwrap();
        std::fs::write(
            etc.path().join("group"),
            "root:x:0:\nkvm:x:104:other,agent\ndocker:x:105:agents\nagent:x:1001:\n",
        )
        .unwrap();
        etc
    }

    fn find(user: &User) -> Option<Identity> {
        Identity::find(user, etc().path())
    }

    #[test]
    fn a_name_gives_ids_groups_home_and_shell() {
        let agent = find(&User::Name(Word::new("agent").unwrap())).unwrap();
        assert_eq!((agent.uid, agent.gid, agent.groups.as_slice()), (1000, 1001, &[104, 1001][..]));
        let environment = agent.environment();
        assert!(environment.contains(&("HOME".into(), "/home/agent".into())));
        assert!(environment.contains(&("SHELL".into(), "/bin/zsh".into())));
        assert!(environment.contains(&("LOGNAME".into(), "agent".into())));
    }

    #[test]
    fn an_unknown_name_is_nobody_and_an_unknown_id_is_somebody() {
        assert_eq!(find(&User::Name(Word::new("ghost").unwrap())), None);
        let stranger = find(&User::Id { uid: 4242, gid: 1 }).unwrap();
        assert_eq!((stranger.uid, stranger.gid, stranger.home.as_slice()), (4242, 1, &b"/"[..]));
        assert!(!stranger.environment().iter().any(|(name, _)| name == "USER"));
    }

    #[test]
    fn root_needs_no_files() {
        let nothing = tempfile::tempdir().unwrap();
        let root = Identity::find(&User::Root, nothing.path()).unwrap();
        assert_eq!((root.uid, root.home.as_slice()), (0, &b"/root"[..]));
    }

    #[test]
    fn empty_fields_have_defaults() {
        let service = find(&User::Name(Word::new("svc").unwrap())).unwrap();
        assert_eq!((service.home.as_slice(), service.shell.as_slice()), (&b"/"[..], &b"/bin/sh"[..]));
    }
}
