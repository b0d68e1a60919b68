//! A connection that is in the clear or encrypted, as one type: STARTTLS changes it in the middle of a session.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

/// A connection over `S`.
#[derive(Debug)]
pub enum Stream<S> {
    /// In the clear.
    Plain(S),
    /// Encrypted; we are the server.
    Server(Box<server::TlsStream<Guarded<S>>>),
    /// Encrypted; we are the client.
    Client(Box<client::TlsStream<S>>),
    /// Taken away for a handshake, or the handshake failed: reads end, writes fail.
    Gone,
}

impl<S> Stream<S> {
    /// Encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Server(_) | Self::Client(_))
    }

    /// The connection in the clear, for a handshake; nothing is left behind. `None` when there is none.
    pub fn take_plain(&mut self) -> Option<S> {
        match std::mem::replace(self, Self::Gone) {
            Self::Plain(stream) => Some(stream),
            other => {
                *self = other;
                None
            }
        }
    }

    /// The connection below.
    pub fn below(&self) -> Option<&S> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Server(stream) => Some(&stream.get_ref().0.inner),
            Self::Client(stream) => Some(stream.get_ref().0),
            Self::Gone => None,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Server(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Client(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Server(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Client(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Server(stream) => Pin::new(stream).poll_flush(cx),
            Self::Client(stream) => Pin::new(stream).poll_flush(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Server(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Client(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

/// A connection that has to begin with a TLS record. Whoever speaks SMTP there is not answered with an alert, which would
/// look like a reply.
#[derive(Debug)]
pub struct Guarded<S> {
    inner: S,
    begun: bool,
}

impl<S> Guarded<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, begun: false }
    }
}

/// RFC 8446 section 5.1: a record that is part of a handshake.
const HANDSHAKE: u8 = 22;

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if !this.begun
            && let Poll::Ready(Ok(())) = &read
            && let Some(first) = buf.filled().get(before)
        {
            if *first != HANDSHAKE {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "wrong version number")));
            }
            this.begun = true;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
