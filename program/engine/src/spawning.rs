//! spawn(8) for everybody: services of master.cf that run a program for each connection, on a port or on a socket below the queue
//! directory. The supervisor starts the program (its user is never root's); here its input and output are joined to the
//! connection. Programs that our own policy delegation asks for are started without a socket in between (`accept.rs`).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use yamabiko_config::{Config, Service, ServiceType};
use yamabiko_envelope::{Event, Events, Origin, Severity, Timestamp};
use yamabiko_receive::Admission;

use crate::accept::Acceptance;

/// Connections at once where master.cf sets no limit.
const MOST: usize = 100;

/// One such service.
#[derive(Clone)]
pub struct Program {
    /// As the supervisor finds it: `NAME/TYPE`.
    id: String,
    /// How long a program may take (`NAME_time_limit`).
    limit: Duration,
    most: usize,
    origin: Origin,
    events: Events,
    acceptance: Acceptance,
}

impl Program {
    /// A service that runs spawn(8).
    pub fn of(config: &Config, service: &Service, acceptance: &Acceptance, events: &Events) -> Self {
        let view = config.service_view(service);
        let most = service.process_limit().map_or_else(|| view.int("default_process_limit"), i64::from);
        Self {
            id: service.id(),
            limit: view.transport_duration(&service.name, "time_limit"),
            most: usize::try_from(most).ok().filter(|most| *most > 0).unwrap_or(MOST),
            origin: Origin::new(&view.text("syslog_name").into(), "spawn"),
            events: Arc::clone(events),
            acceptance: acceptance.clone(),
        }
    }

    fn warn(&self, text: String) {
        self.events.emit(Event::text(Timestamp::now(), self.origin.clone(), Severity::Warning, text));
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, mut connection: S) {
        // The supervisor has said why there is none.
        let Ok(program) = self.acceptance.spawn(&self.id).await else { return };
        let program = program.set_nonblocking(true).and_then(|()| UnixStream::from_std(program));
        let mut program = match program {
            Ok(program) => program,
            Err(error) => return self.warn(format!("service {}: {error}", self.id)),
        };
        match timeout(self.limit, copy_bidirectional(&mut connection, &mut program)).await {
            // Whoever of the two went away first, that is how it ends.
            Ok(_) => {}
            Err(_) => {
                self.warn(format!("service {}: the program took longer than {} s", self.id, self.limit.as_secs()))
            }
        }
    }
}

/// Where such a service listens.
pub enum Door {
    /// A port.
    Inet(TcpListener),
    /// A socket in the file system.
    Unix(UnixListener),
}

/// Runs the program for each connection until `stop`.
pub async fn serve_programs(door: Door, program: Program, mut stop: watch::Receiver<bool>) {
    let seats = Arc::new(Semaphore::new(program.most));
    loop {
        // Further connections wait in the listen queue, as with Postfix.
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = accept(&door) => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                program.warn(format!("service {}: accept connection: {error}", program.id));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let program = program.clone();
        tokio::spawn(async move {
            program.serve(connection).await;
            drop(seat);
        });
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

async fn accept(door: &Door) -> io::Result<Box<dyn Both>> {
    let connection: Box<dyn Both> = match door {
        Door::Inet(listener) => Box::new(listener.accept().await?.0),
        Door::Unix(listener) => Box::new(listener.accept().await?.0),
    };
    Ok(connection)
}

/// The services of type `unix`, each with the path of its socket.
pub fn sockets(config: &Config) -> Vec<(PathBuf, usize)> {
    let queue = PathBuf::from(config.main().text("queue_directory"));
    let services = config.services().iter().enumerate();
    let spawned = services.filter(|(_, service)| service.kind == ServiceType::Unix && service.command == "spawn");
    let path =
        |service: &Service| queue.join(if service.is_private() { "private" } else { "public" }).join(&service.name);
    spawned.map(|(position, service)| (path(service), position)).collect()
}

/// A socket there. One that is left from before is replaced; anything else is left alone.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("there is something else by this name")),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // Who may come here is decided by the directory.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}
