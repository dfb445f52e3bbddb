//! Strings in requests: names of directory entries, and the targets of symbolic links.

use std::ffi::CStr;
use std::io::Read;

use rustix::io::Errno;
use virtio::Reader;

/// Longest name of an entry, as in Linux.
pub(super) const MAX_NAME: usize = 255;
/// Longest target of a symbolic link (Linux's `PATH_MAX` without the final zero).
pub(super) const MAX_TARGET: usize = 4095;
/// All strings of one request: a name and a target, each with its final zero.
const MAX_STRINGS: usize = MAX_NAME + 1 + MAX_TARGET + 1;

/// The name of an entry in some directory: one component that leads neither up nor anywhere else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'a>(&'a CStr);

impl<'a> Name<'a> {
    /// Checks a name the guest sent.
    pub(super) fn new(text: &'a CStr) -> Result<Self, Errno> {
        match text.to_bytes() {
            name if name.len() > MAX_NAME => Err(Errno::NAMETOOLONG),
            b"" | b"." | b".." => Err(Errno::INVAL),
            name if name.contains(&b'/') => Err(Errno::INVAL),
            _ => Ok(Self(text)),
        }
    }

    pub(super) fn as_c_str(self) -> &'a CStr {
        self.0
    }
}

/// The zero-terminated strings at the end of a request.
#[derive(Debug)]
pub(super) struct Strings(Vec<u8>);

impl Strings {
    /// Takes the rest of a request.
    pub(super) fn read(input: &mut Reader<'_>) -> Result<Self, Errno> {
        let length = input.available_bytes();
        if length > MAX_STRINGS {
            return Err(Errno::NAMETOOLONG);
        }
        let mut bytes = vec![0; length];
        input.read_exact(&mut bytes).map_err(|_| Errno::INVAL)?;
        Ok(Self(bytes))
    }

    /// The only string, as a name.
    pub(super) fn name(&self) -> Result<Name<'_>, Errno> {
        let (first, rest) = split(&self.0)?;
        if rest.is_empty() { Name::new(first) } else { Err(Errno::INVAL) }
    }

    /// Two names.
    pub(super) fn two_names(&self) -> Result<(Name<'_>, Name<'_>), Errno> {
        let (first, second) = self.two()?;
        Ok((Name::new(first)?, Name::new(second)?))
    }

    /// A name and the target of a symbolic link, which may be any text.
    pub(super) fn name_and_target(&self) -> Result<(Name<'_>, &CStr), Errno> {
        let (name, target) = self.two()?;
        match target.count_bytes() {
            0 => Err(Errno::NOENT),
            1..=MAX_TARGET => Ok((Name::new(name)?, target)),
            _ => Err(Errno::NAMETOOLONG),
        }
    }

    fn two(&self) -> Result<(&CStr, &CStr), Errno> {
        let (first, rest) = split(&self.0)?;
        let (second, rest) = split(rest)?;
        if rest.is_empty() { Ok((first, second)) } else { Err(Errno::INVAL) }
    }
}

fn split(bytes: &[u8]) -> Result<(&CStr, &[u8]), Errno> {
    let text = CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::INVAL)?;
    let rest = bytes.get(text.count_bytes() + 1..).unwrap_or_default();
    Ok((text, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Result<(), Errno> {
        Strings(bytes.to_vec()).name().map(|_| ())
    }

    #[test]
    fn only_single_components_are_names() {
        for good in
            [&b"a\0"[..], b"...\0", b"..a\0", b"\xff\xfe\n\0", b" \0", &[[b'x'; 255].as_slice(), b"\0"].concat()]
        {
            assert_eq!(one(good), Ok(()), "{good:?}");
        }
        for bad in [&b"\0"[..], b".\0", b"..\0", b"a/b\0", b"/etc/passwd\0", b"/\0", b"a\0b\0", b"a\0b", b"a", b""] {
            assert_eq!(one(bad), Err(Errno::INVAL), "{bad:?}");
        }
        assert_eq!(one(&[[b'x'; 256].as_slice(), b"\0"].concat()), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn both_names_are_checked() {
        let two = |bytes: &[u8]| Strings(bytes.to_vec()).two_names().map(|_| ());
        assert_eq!(two(b"a\0b\0"), Ok(()));
        for bad in [&b"a\0"[..], b"a\0b", b"..\0b\0", b"a\0..\0", b"a\0b/c\0", b"a\0b\0c\0"] {
            assert_eq!(two(bad), Err(Errno::INVAL), "{bad:?}");
        }
    }

    #[test]
    fn targets_are_any_text_of_bounded_length() {
        let check = |bytes: &[u8]| Strings(bytes.to_vec()).name_and_target().map(|_| ());
        assert_eq!(check(b"a\0../../etc/passwd\0"), Ok(()));
        assert_eq!(check(b"a\0\0"), Err(Errno::NOENT));
        assert_eq!(check(b"a/b\0target\0"), Err(Errno::INVAL));
        assert_eq!(check(&[b"a\0".as_slice(), &[b'x'; 4096], b"\0"].concat()), Err(Errno::NAMETOOLONG));
    }
}
