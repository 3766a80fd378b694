//! Destinations that are not files: pipes, character devices and open descriptors.

use crate::error::{Error, Result};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// The descriptor of standard output.
pub(super) const STDOUT: i32 = 1;

/// An open stream. It takes bytes in order.
#[derive(Debug)]
pub(super) struct Stream {
    file: File,
    /// The number of the original descriptor.
    descriptor: Option<i32>,
}

impl Stream {
    /// The number of the descriptor that this stream duplicates, if any.
    pub(super) fn descriptor(&self) -> Option<i32> {
        self.descriptor
    }

    /// A writer that waits for the stream.
    pub(super) fn writer(&self) -> impl Write {
        Writer(self)
    }
}

/// See [`Stream::writer`].
struct Writer<'a>(&'a Stream);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match (&self.0.file).write(bytes) {
                // The program's parent may have made the pipe non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.0.wait()?,
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.0.file).flush()
    }
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::IsTerminal;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

    impl Stream {
        /// Waits until the stream accepts more bytes.
        pub(super) fn wait(&self) -> io::Result<()> {
            let mut ready = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
            // SAFETY: the pointer is valid for the one entry that is passed.
            let polled = unsafe { libc::poll(&raw mut ready, 1, -1) };
            match io::Error::last_os_error() {
                error if polled == -1 && error.kind() != ErrorKind::Interrupted => Err(error),
                _ => Ok(()),
            }
        }

        /// This process's standard output.
        pub(in super::super) fn stdout() -> io::Result<Self> {
            Self::continuing(io::stdout().as_fd(), STDOUT)
        }

        /// The open descriptor behind `path`, with its position.
        pub(in super::super) fn of_descriptor(path: &Path, number: i32) -> Result<Self> {
            // SAFETY: the system checks the number; the descriptor is only duplicated.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            let stream = Self::continuing(descriptor, number).map_err(|error| Error::io(path, error))?;
            refuse_terminal(path, stream)
        }

        fn continuing(descriptor: BorrowedFd<'_>, number: i32) -> io::Result<Self> {
            let file = File::from(descriptor.try_clone_to_owned()?);
            if flags(&file)? & libc::O_ACCMODE == libc::O_RDONLY {
                return Err(io::Error::new(ErrorKind::PermissionDenied, "it is open for reading only"));
            }
            Ok(Self { file, descriptor: Some(number) })
        }

        /// Opens the pipe or device that `found` describes.
        pub(in super::super) fn open(path: &Path, found: &Metadata) -> Result<Self> {
            let kind = found.file_type();
            if kind.is_block_device() || kind.is_socket() {
                let kind = if kind.is_socket() { "socket" } else { "block device" };
                return Err(Error::file(path, format!("expected a file, found a {kind}; choose another name")));
            }
            // Without this flag, opening a pipe without a reader would wait.
            let options = libc::O_NONBLOCK | libc::O_NOCTTY;
            let file = match OpenOptions::new().write(true).custom_flags(options).open(path) {
                Err(error) if kind.is_fifo() && error.raw_os_error() == Some(libc::ENXIO) => {
                    return Err(Error::file(path, "no program reads from this pipe; start the reader first"));
                }
                file => file.map_err(|error| Error::io(path, error))?,
            };
            wait_for_reader(&file).map_err(|error| Error::io(path, error))?;
            refuse_terminal(path, Self { file, descriptor: None })
        }
    }

    fn refuse_terminal(path: &Path, stream: Stream) -> Result<Stream> {
        match stream.file.is_terminal() {
            true => Err(Error::file(path, "expected a file, found a terminal, which binary data would fill")),
            false => Ok(stream),
        }
    }

    fn flags(file: &File) -> io::Result<i32> {
        // SAFETY: the call reads the flags of an open descriptor and takes no pointer.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) } {
            -1 => Err(io::Error::last_os_error()),
            flags => Ok(flags),
        }
    }

    /// Makes writes wait while a pipe is full.
    fn wait_for_reader(file: &File) -> io::Result<()> {
        let waiting = flags(file)? & !libc::O_NONBLOCK;
        // SAFETY: the call sets the flags of an open descriptor and takes no pointer.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, waiting) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// The number of this process's descriptor that `path` names: `/dev/fd/1`, `/proc/self/fd/1`.
    pub(in super::super) fn descriptor(path: &Path) -> Option<i32> {
        let number = path.file_name()?.to_str()?.parse().ok().filter(|number| *number >= 0)?;
        let folder = super::super::folder(path).canonicalize().ok()?;
        let is_own = |own: &str| Path::new(own).canonicalize().is_ok_and(|own| own == folder);
        ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd"].into_iter().any(is_own).then_some(number)
    }
}

#[cfg(unix)]
pub(super) use unix::descriptor;

#[cfg(not(unix))]
impl Stream {
    /// Waits until the stream accepts more bytes. Only Unix has such streams.
    fn wait(&self) -> io::Result<()> {
        Err(ErrorKind::WouldBlock.into())
    }

    /// This process's standard output.
    #[cfg(windows)]
    pub(super) fn stdout() -> io::Result<Self> {
        use std::os::windows::io::AsHandle;
        let file = File::from(io::stdout().as_handle().try_clone_to_owned()?);
        Ok(Self { file, descriptor: Some(STDOUT) })
    }

    #[cfg(not(windows))]
    pub(super) fn stdout() -> io::Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(super) fn of_descriptor(path: &Path, _: i32) -> Result<Self> {
        Err(Error::io(path, ErrorKind::Unsupported.into()))
    }

    /// Opens a device.
    pub(super) fn open(path: &Path, _: &Metadata) -> Result<Self> {
        let file = std::fs::OpenOptions::new().write(true).open(path).map_err(|error| Error::io(path, error))?;
        Ok(Self { file, descriptor: None })
    }
}

/// The number of an open descriptor. Only Unix has names for them.
#[cfg(not(unix))]
pub(super) fn descriptor(_: &Path) -> Option<i32> {
    None
}
