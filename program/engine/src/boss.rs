//! The engine's line to the supervisor: orders come in on a thread of their own, wishes go out from anywhere.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use yamabiko_ipc::boss::{self, Order, Wish, WorkerUser};

/// An order with the descriptors that came with it.
pub type Received = (Order, Vec<OwnedFd>);

type Waiting = HashMap<u64, oneshot::Sender<Result<UnixStream, String>>>;

/// The line. Cheap to clone.
#[derive(Clone)]
pub struct Boss {
    socket: Arc<UnixStream>,
    waiting: Arc<Mutex<(u64, Waiting)>>,
}

impl Boss {
    /// Takes the socket that the supervisor gave us and starts to listen. The channel ends when the supervisor is gone.
    pub fn listen(socket: UnixStream) -> io::Result<(Self, mpsc::UnboundedReceiver<Received>)> {
        let (orders, receiver) = mpsc::unbounded_channel();
        let boss = Self { socket: Arc::new(socket), waiting: Arc::default() };
        let line = boss.clone();
        std::thread::Builder::new().name("boss".into()).spawn(move || line.hear(&orders))?;
        Ok((boss, receiver))
    }

    fn hear(&self, orders: &mpsc::UnboundedSender<Received>) {
        loop {
            match boss::receive::<Order>(&self.socket) {
                Ok(Some((Order::Worker { number, refused }, descriptors))) => {
                    let waiting = self.lock().1.remove(&number);
                    let answer = match (refused, descriptors.into_iter().next()) {
                        (None, Some(socket)) => Ok(UnixStream::from(socket)),
                        (Some(why), _) => Err(why),
                        (None, None) => Err("the supervisor sent no socket".to_owned()),
                    };
                    if let Some(waiting) = waiting {
                        let _ = waiting.send(answer);
                    }
                }
                Ok(Some(received)) => {
                    if orders.send(received).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Waiting)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the supervisor something.
    pub fn tell(&self, wish: &Wish) -> io::Result<()> {
        boss::send(&self.socket, wish, &[])
    }

    /// A socket to a new worker under this user's ID.
    pub async fn worker(&self, user: WorkerUser) -> Result<UnixStream, String> {
        self.ask(|number| Wish::Worker { number, user }).await
    }

    /// A socket to a new process of a service that runs spawn(8).
    pub async fn spawn(&self, service: &str) -> Result<UnixStream, String> {
        self.ask(|number| Wish::Spawn { number, service: service.to_owned() }).await
    }

    async fn ask(&self, wish: impl FnOnce(u64) -> Wish) -> Result<UnixStream, String> {
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut waiting = self.lock();
            waiting.0 += 1;
            let number = waiting.0;
            waiting.1.insert(number, sender);
            number
        };
        self.tell(&wish(number)).map_err(|error| format!("cannot reach the supervisor: {error}"))?;
        receiver.await.unwrap_or_else(|_| Err("the supervisor is gone".to_owned()))
    }
}
