//! Visits to receiving sites: deliveries that ask before they connect, and tell what they heard.
//!
//! Limits of receivers count over all domains that share mail exchangers, and which those are is known only after the
//! lookup, here. So a delivery that runs [`within`] a visit asks its [`Visitor`] when it has the hosts. With a visitor the
//! client is careful about sessions: kept ones are used or closed before a new one is opened, and the end of a session is
//! waited for, so that the receiver never sees more sessions than the visitor let in.

use std::pin::Pin;
use std::sync::Arc;

use yamabiko_envelope::SmtpStage;
use yamabiko_status::ReplyCode;

/// The answer to a delivery that is about to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// It may. If not, the attempt ends without any outcome.
    pub go: bool,
    /// Messages in one session; 0 is any number.
    pub session_messages: u32,
    /// The name of the site.
    pub site: Arc<str>,
}

/// What a server said that is of interest for how it is to be treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Name of the host.
    pub host: String,
    /// Where in the conversation.
    pub stage: SmtpStage,
    /// Reply code; `None`: there was no reply.
    pub code: Option<ReplyCode>,
    /// The reply, on one line, or why there was none.
    pub text: String,
    /// Uses of the session, this one included; 0 without a session.
    pub uses: u32,
}

/// Somebody who decides about visits.
pub trait Visitor: Send + Sync {
    /// These hosts are about to be connected to.
    fn enter(&self, hosts: Vec<String>) -> Pin<Box<dyn Future<Output = Pass> + Send + '_>>;
    /// A refusal, or no answer at all.
    fn heard(&self, heard: Heard);
    /// A session was ended, and the server knows.
    fn session_ended(&self);
}

tokio::task_local! {
    static VISITOR: Arc<dyn Visitor>;
}

/// Has a delivery made with a visitor.
pub async fn within<F: Future>(visitor: Arc<dyn Visitor>, delivery: F) -> F::Output {
    VISITOR.scope(visitor, delivery).await
}

/// The visitor of the delivery that runs.
pub(crate) fn visitor() -> Option<Arc<dyn Visitor>> {
    VISITOR.try_with(Arc::clone).ok()
}
