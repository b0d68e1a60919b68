//! What a reader found out about one recipient, before the decision.

use crate::Reason;
use crate::analyzer::Stage;
use crate::finding::{Action, Date};
use yamabiko_status::EnhancedStatus;

/// One recipient of a notice; what is not known is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    pub recipient: String,
    pub alias: String,
    pub action: Option<Action>,
    /// `Status:`, or the code that the system gives itself.
    pub status: Option<EnhancedStatus>,
    /// Type of the diagnostic.
    pub kind: String,
    pub diagnostic: String,
    /// What the notice says in the block of this recipient, when the diagnostic came from elsewhere.
    pub said: String,
    pub rhost: String,
    pub lhost: String,
    pub stage: Option<Stage>,
    pub date: Option<Date>,
    /// The diagnostic is of a delivery status.
    pub noted: bool,
    /// It is the only recipient of the notice.
    pub alone: bool,
    /// What the system is known to mean.
    pub hint: Option<(Reason, u8, &'static str)>,
}

impl Draft {
    pub(crate) fn to(recipient: impl Into<String>) -> Self {
        Self { recipient: recipient.into(), ..Self::default() }
    }
}
