//! Users of the guest, as the command line and the settings name them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use agent_protocol::bytes::{Invalid, Word};
use agent_protocol::exec::User;

/// `root`, a name, `UID` or `UID:GID`.
pub(crate) fn parse(text: OsString) -> Result<User, Invalid> {
    let number = |text: &str| text.parse::<u32>().ok();
    let ids = text.to_str().and_then(|text| match text.split_once(':') {
        Some((uid, gid)) => Some((number(uid)?, number(gid)?)),
        None => number(text).map(|uid| (uid, uid)),
    });
    match ids {
        _ if text == "root" => Ok(User::Root),
        Some((uid, gid)) => Ok(User::Id { uid, gid }),
        None => Ok(User::Name(Word::new(text.into_vec())?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers() {
        let name = |name: &str| User::Name(Word::new(name).unwrap());
        for (text, user) in [
            ("root", User::Root),
            ("www-data", name("www-data")),
            ("1000", User::Id { uid: 1000, gid: 1000 }),
            ("1000:100", User::Id { uid: 1000, gid: 100 }),
            ("4294967296", name("4294967296")),
        ] {
            assert_eq!(parse(text.into()).unwrap(), user, "{text}");
        }
        assert!(parse("".into()).is_err());
    }
}
