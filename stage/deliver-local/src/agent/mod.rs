//! The deciding half of local delivery, in the engine.
//!
//! * [`Settings`] is what the configuration says, [`LocalAgent`] does local(8), [`VirtualAgent`] virtual(8),
//!   [`PipeAgent`] pipe(8).
//! * [`Surroundings`] is what the agents need of the engine: workers, routing, new messages, other transports.
//!
//! One recipient may become many deliveries: [`local`] keeps them on a work list, so that an alias that leads in a
//! circle costs a bounded number of steps and no stack.

mod deliver;
mod list;
mod local;
mod mailbox;
mod pipe;
mod qmail;
mod settings;
mod virtual_mailbox;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use yamabiko_envelope::{Content, DeliveryRequest, Outcome, QueueId};

use crate::job::{Done, Job};

pub use local::LocalAgent;
pub use pipe::{PipeAgent, PipeSettings};
pub use settings::{Settings, VirtualSettings};
pub use virtual_mailbox::VirtualAgent;

/// A future in a box.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whose ID a job is done under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum As {
    /// A system user; for its mailbox in the spool, also with the spool's group where it needs that.
    Login {
        /// Login name.
        name: String,
        /// Writes to the mail spool.
        spool: bool,
    },
    /// Numbers from the virtual tables.
    Ids {
        /// User ID.
        uid: u32,
        /// Group ID.
        gid: u32,
    },
    /// Whoever a pipe service of master.cf says.
    Service {
        /// Name of the service.
        name: String,
        /// `user=` as written.
        user: String,
        /// `chroot=`; empty for none.
        chroot: String,
    },
}

/// Where an address leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Transport name.
    pub transport: String,
    /// Next hop.
    pub nexthop: String,
    /// The address as rewritten.
    pub address: String,
}

/// A message that goes on under another name, because an alias or `.forward` says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Its envelope sender: the message's, or the alias's owner.
    pub sender: String,
    /// Its recipients, internal form.
    pub recipients: Vec<String>,
    /// For its `Delivered-To:` field; empty for none.
    pub delivered_to: String,
    /// Position of the recipient it is made for: original recipient and DSN requests come from there.
    pub recipient: u32,
    /// The alias has an owner: failures are the owner's affair, and so no DSN request goes on.
    pub owned: bool,
    /// The sender has been told that the recipient is a list, and hears no more of success.
    pub told: bool,
}

/// What the agents need of the engine.
pub trait Surroundings: Send + Sync {
    /// Has a job done by a worker. An error is our own trouble and defers.
    fn work<'a>(&'a self, user: As, job: Job, content: Option<&'a Content>) -> Boxed<'a, io::Result<Done>>;
    /// Rewrites an address as trivial-rewrite would and says where it leads. An error is temporary.
    fn route<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Destination, String>>;
    /// Queues a new message.
    fn forward<'a>(&'a self, request: &'a DeliveryRequest, forward: Forward) -> Boxed<'a, Result<QueueId, String>>;
    /// Hands a recipient to another transport (`mailbox_transport`, `fallback_transport`); the outcome is that agent's.
    fn pass<'a>(
        &'a self,
        request: &'a DeliveryRequest,
        recipient: usize,
        address: &'a str,
        transport: &'a str,
        nexthop: &'a str,
    ) -> Boxed<'a, Vec<Outcome>>;
    /// A line for the log.
    fn warn(&self, text: String);
    /// The time.
    fn now(&self) -> yamabiko_envelope::Timestamp;
    /// A system user by name; an error is temporary.
    fn user(&self, name: &str) -> Result<Option<Arc<User>>, String>;
    /// The login name of a system user ID.
    fn user_name(&self, uid: u32) -> Result<Option<String>, String>;
}

/// A system user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User ID.
    pub uid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}
