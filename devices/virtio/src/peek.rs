//! Where peeking begins in what a socket has received.
//!
//! Called by the network stack, which shows the guest bytes that stay in the host's socket until the guest has
//! acknowledged them. It is here since no safe binding of this option exists and the stack holds no unsafe code.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Lets `MSG_PEEK` begin `offset` bytes behind the first one that was not received. From then on each peek moves on by
/// itself and each receive moves back (socket(7), SO_PEEK_OFF). An error where the kernel or the kind of socket has no
/// such thing: TCP has it since Linux 6.9.
pub fn set_peek_offset(socket: impl AsFd, offset: i32) -> io::Result<()> {
    let value = offset.to_ne_bytes();
    let len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `value` outlives the call, which reads the `len` bytes that it has; `socket` keeps the descriptor open.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, value.as_ptr().cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use rustix::net::{RecvFlags, recv};

    use super::*;

    fn peek(socket: &UnixStream) -> Vec<u8> {
        let mut buffer = [0; 2];
        let (_, count) = recv(socket, &mut buffer, RecvFlags::PEEK).unwrap();
        buffer[..count].to_vec()
    }

    #[test]
    fn peeks_move_on_and_receiving_moves_back() {
        let (mut far, near) = UnixStream::pair().unwrap();
        far.write_all(b"abcdef").unwrap();
        set_peek_offset(&near, 1).unwrap();
        assert_eq!((peek(&near), peek(&near)), (b"bc".to_vec(), b"de".to_vec()));
        let mut first = [0; 3];
        recv(&near, &mut first, RecvFlags::empty()).unwrap();
        assert_eq!((&first, peek(&near)), (b"abc", b"f".to_vec()));
    }

    #[test]
    fn what_is_no_socket_has_no_such_thing() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(set_peek_offset(&file, 0).is_err());
    }
}
