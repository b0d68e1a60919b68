//! Sockets: making a connection, reading replies, writing commands and messages, each within its time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::Instant;
use yamabiko_smtp::reply::{NotAReply, Reply, ReplyParser};
use yamabiko_tls::{Client, Clock, Demand, Failure, Secured, Stream as Tls};

use crate::conversation::{Broken, Session};
use crate::settings::Settings;

/// Bytes of one reply that are read before the server is given up on: an endless reply is no reply.
const REPLY_LIMIT: usize = 1024 * 1024;
/// Bytes read at once.
const INPUT: usize = 1024;

enum Stream {
    Tcp(Tls<TcpStream>),
    Unix(Tls<UnixStream>),
}

/// The socket with what was read from it.
pub(crate) struct Socket {
    stream: Stream,
    clock: Clock,
    parser: ReplyParser,
    input: Box<[u8; INPUT]>,
    /// What was read and not yet looked at.
    unread: std::ops::Range<usize>,
}

/// An open connection with what is known of it. Dropping it closes it.
pub(crate) struct Connection {
    /// To read and write.
    pub socket: Socket,
    /// Empty; kept for its capacity.
    pub output: Vec<u8>,
    /// The session.
    pub session: Session,
    /// When it was made.
    pub opened: Instant,
}

/// Text of a system error as `strerror` has it, without the number that Rust adds.
pub(crate) fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        // Found in this text, so a boundary of it.
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The address to connect from, if any, and whether it must work.
fn source_address(to: IpAddr, settings: &Settings) -> Option<(IpAddr, bool)> {
    let configured = if to.is_ipv4() { settings.bind_address } else { settings.bind_address6 };
    if let Some(address) = configured.filter(|address| address.is_ipv4() == to.is_ipv4()) {
        return Some((address, settings.bind_address_enforce));
    }
    // A virtual host: mail comes from the address it is known by.
    let mut own = settings.interfaces.iter().copied().filter(|address| address.is_ipv4() == to.is_ipv4());
    match (own.next(), own.next()) {
        (Some(only), None) if !only.is_loopback() => Some((only, false)),
        _ => None,
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The system said so.
    System(io::Error),
    /// `smtp_bind_address_enforce` is on and the address cannot be used.
    Source,
}

/// Makes a TCP connection. `warn` gets what goes wrong with the source address.
pub(crate) async fn connect_tcp(
    to: SocketAddr,
    settings: &Settings,
    session: Session,
    mut warn: impl FnMut(String),
) -> Result<Connection, ConnectError> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(ConnectError::System)?;
    if settings.window > 0 {
        // They count only when they are set before the handshake; the system may take them as a wish.
        let _ = socket.set_send_buffer_size(settings.window).and(socket.set_recv_buffer_size(settings.window));
    }
    if let Some((from, enforced)) = source_address(to.ip(), settings)
        && let Err(error) = socket.bind(SocketAddr::new(from, 0))
    {
        warn(format!("smtp_connect_addr: bind {from}: {}", error_text(&error)));
        if enforced {
            return Err(ConnectError::Source);
        }
    }
    let mut clock = Clock::default();
    let connected = within(&mut clock, settings.timeouts.connect, socket.connect(to)).await;
    let stream = connected.map_err(ConnectError::System)?;
    // One write per turn: there is nothing to gain from waiting for more.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().ok().map(|address| address.ip());
    let session = Session { local, ..session };
    Ok(Connection::new(Stream::Tcp(Tls::Plain(stream)), clock, session))
}

/// Connects to a UNIX-domain socket.
pub(crate) async fn connect_unix(path: &Path, settings: &Settings, session: Session) -> io::Result<Connection> {
    let mut clock = Clock::default();
    let stream = within(&mut clock, settings.timeouts.connect, UnixStream::connect(path)).await?;
    Ok(Connection::new(Stream::Unix(Tls::Plain(stream)), clock, session))
}

async fn within<T>(clock: &mut Clock, limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    if limit.is_zero() {
        return work.await;
    }
    let done = clock.within(|| Instant::now() + limit, work).await;
    done.unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::TimedOut, "Connection timed out")))
}

/// How long the end of a session is waited for.
pub(crate) const FAREWELL: Duration = Duration::from_secs(3);

impl Connection {
    fn new(stream: Stream, clock: Clock, session: Session) -> Self {
        let socket = Socket { stream, clock, parser: ReplyParser::new(), input: Box::new([0; INPUT]), unread: 0..0 };
        Self { socket, output: Vec::new(), session, opened: Instant::now() }
    }
}

/// What is written to an encrypted connection may wait in its buffers.
async fn put<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut Tls<S>, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    if stream.is_encrypted() { stream.flush().await } else { Ok(()) }
}

async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Tls<S>,
    client: &Client,
    demand: &Demand,
) -> Result<Secured, Failure> {
    let Some(plain) = stream.take_plain() else { return Err(Failure::Lost) };
    let (encrypted, secured) = client.connect(plain, demand).await?;
    *stream = encrypted;
    Ok(secured)
}

impl Socket {
    /// A handshake. What the server said before it and is not read yet is forgotten: it was said in the clear, maybe by
    /// somebody else.
    pub async fn secure(&mut self, client: &Client, demand: &Demand, limit: Duration) -> Result<Secured, Failure> {
        self.unread = 0..0;
        self.parser = ReplyParser::new();
        let Self { stream, clock, .. } = self;
        let work = async {
            Ok(match stream {
                Stream::Tcp(stream) => secure(stream, client, demand).await,
                Stream::Unix(stream) => secure(stream, client, demand).await,
            })
        };
        within(clock, limit, work).await.unwrap_or_else(|error| Err(Failure::Broken(error_text(&error))))
    }

    /// Tells the other side of an encrypted connection that nothing more will come.
    pub async fn close(&mut self) {
        let Self { stream, clock, .. } = self;
        let work = async {
            match stream {
                Stream::Tcp(stream) if stream.is_encrypted() => stream.shutdown().await,
                Stream::Unix(stream) if stream.is_encrypted() => stream.shutdown().await,
                _ => Ok(()),
            }
        };
        let _ = within(clock, Duration::from_secs(1), work).await;
    }

    /// Says QUIT to a server that waits for the next message, and sees it go, within this time.
    pub async fn farewell(&mut self, limit: Duration) {
        if self.write(b"QUIT\r\n", FAREWELL).await.is_ok() {
            self.ended(limit).await;
        }
    }

    /// Waits until the server has closed its side too, for so long at most: before that it still counts this session. False
    /// when it has not.
    pub async fn ended(&mut self, limit: Duration) -> bool {
        // Who has not heard a QUIT, because a conversation broke off, sees the end of it.
        if let Stream::Tcp(stream) = &mut self.stream
            && !stream.is_encrypted()
        {
            let _ = stream.shutdown().await;
        }
        let gone = async {
            loop {
                match self.reply(limit, None).await {
                    Ok(_) => {}
                    Err(how) => return how != Broken::TimedOut,
                }
            }
        };
        tokio::time::timeout(limit, gone).await.unwrap_or(false)
    }

    /// Writes everything within the time.
    pub async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), Broken> {
        let Self { stream, clock, .. } = self;
        let work = async {
            match stream {
                Stream::Tcp(stream) => put(stream, bytes).await,
                Stream::Unix(stream) => put(stream, bytes).await,
            }
        };
        within(clock, limit, work).await.map_err(|error| broken(&error))
    }

    /// Reads one reply. Each piece of it must come within the time, and all of it within ten times that, or `until` then.
    pub async fn reply(&mut self, limit: Duration, until: Option<Instant>) -> Result<Result<Reply, NotAReply>, Broken> {
        let mut read = 0;
        let mut deadline = until;
        loop {
            let mut unread = self.input.get(self.unread.clone()).unwrap_or_default();
            let before = unread.len();
            let parsed = self.parser.parse(&mut unread);
            self.unread.start += before - unread.len();
            if let Some(reply) = parsed {
                return Ok(reply);
            }
            if read > REPLY_LIMIT {
                return Err(Broken::TimedOut);
            }
            // The clock is looked at from the second piece on: most replies come in one.
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Broken::TimedOut);
            }
            if !limit.is_zero() && deadline.is_none() {
                deadline = Some(Instant::now() + limit * 10);
            }
            let Self { stream, clock, input, .. } = self;
            let work = async {
                match stream {
                    Stream::Tcp(stream) => stream.read(&mut input[..]).await,
                    Stream::Unix(stream) => stream.read(&mut input[..]).await,
                }
            };
            let limit = left.map_or(limit, |left| limit.min(left));
            match within(clock, limit, work).await {
                Ok(0) => return Err(Broken::Lost),
                Ok(n) => {
                    read += n;
                    self.unread = 0..n;
                }
                Err(error) => return Err(broken(&error)),
            }
        }
    }
}

fn broken(error: &io::Error) -> Broken {
    if error.kind() == io::ErrorKind::TimedOut { Broken::TimedOut } else { Broken::Lost }
}
