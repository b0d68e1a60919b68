//! Open files handed to another process over a unix socket (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// At most this many descriptors travel with one message.
pub const MAX_FDS: usize = 64;

/// A file without a name, in memory; gone with its last descriptor.
///
/// # Errors
/// The system has no memory or no descriptor for it.
pub fn memory_file(name: &str) -> io::Result<OwnedFd> {
    nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC).map_err(crate::io)
}

/// Sends bytes (at least one) with open files; gives how many bytes went. The files went with the first.
pub fn send(socket: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if bytes.is_empty() || files.len() > MAX_FDS {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let raw: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None).map_err(crate::io)
}

/// Receives bytes into `buffer` and the open files that come with them; `(0, [])` at the end of the stream. Files are
/// closed on exec. Fails with `InvalidData` when more files came than fit.
pub fn receive(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
        .map_err(crate::io)?;
    let mut files = Vec::new();
    for control in message.cmsgs().map_err(crate::io)? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else knows them.
            files.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many open files in one message"));
    }
    Ok((message.bytes, files))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    #[test]
    fn files_travel() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        file.rewind().unwrap();
        assert_eq!(send(&left, b"hello", &[file.as_fd(), file.as_fd()]).unwrap(), 5);
        send(&left, b"x", &[]).unwrap();
        drop(left);
        let mut buffer = [0; 5];
        let (length, files) = receive(&right, &mut buffer).unwrap();
        assert_eq!((length, &buffer, files.len()), (5, b"hello", 2));
        let mut text = String::new();
        File::from(files.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert_eq!(receive(&right, &mut buffer).unwrap().0, 1);
        assert_eq!(receive(&right, &mut buffer).unwrap().0, 0);
    }
}
