//! What local delivery needs of the engine: workers, routing, new messages, other transports, users.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use yamabiko_deliver_local::agent::{As, Boxed, Destination, Forward, Surroundings, User};
use yamabiko_deliver_local::job::{Done, Job};
use yamabiko_envelope::{
    Content, DeliveryRecipient, DeliveryRequest, Envelope, Notify, Outcome, QueueId, Recipient, RewriteContext,
    Severity, Source, Submission, Timestamp,
};
use yamabiko_status::EnhancedStatus;

use crate::accept::{Acceptance, Taken};
use crate::blocking::ask_users;
use crate::workers::Workers;

/// The engine as local delivery sees it. Made before the rest of the engine is, so the rest is put in later.
pub struct Around {
    workers: Arc<Workers>,
    acceptance: OnceLock<Acceptance>,
    /// Users that were there a moment ago.
    users: Mutex<HashMap<String, (Instant, Arc<User>)>>,
}

/// How long a user that was found is not asked for again (Postfix: for the life of a delivery process).
const USER_SERVES: Duration = Duration::from_secs(5);
/// Users that are remembered for that.
const USERS: usize = 1000;

impl Around {
    /// Without the rest of the engine as yet.
    pub fn new(workers: Arc<Workers>) -> Arc<Self> {
        Arc::new(Self { workers, acceptance: OnceLock::new(), users: Mutex::default() })
    }

    /// The rest of the engine.
    pub fn complete(&self, acceptance: Acceptance) {
        let _ = self.acceptance.set(acceptance);
    }

    /// Deliveries begin only when the engine is complete.
    fn engine(&self) -> Result<&Acceptance, String> {
        self.acceptance.get().ok_or_else(|| "the engine is not complete yet".to_owned())
    }

    async fn forward_message(&self, request: &DeliveryRequest, forward: Forward) -> Result<QueueId, String> {
        let engine = self.engine()?;
        let old = &request.envelope;
        let known = old.recipients.get(forward.recipient as usize).cloned().unwrap_or_default();
        let (id, now) = (engine.next_id(), Timestamp::now());
        let mut envelope = Envelope::new(id, now, forward.sender);
        // What was asked for the old message is asked for the new one, unless the alias has an owner of its own.
        let (orcpt, notify) = if forward.owned {
            (String::new(), Notify { never: known.notify.never, ..Notify::default() })
        } else {
            envelope.envid.clone_from(&old.envid);
            envelope.ret = old.ret;
            (known.orcpt.clone(), if forward.told { without_success(known.notify) } else { known.notify })
        };
        envelope.body = old.body;
        envelope.smtputf8 = old.smtputf8;
        envelope.tls = old.tls;
        envelope.context = RewriteContext::Local;
        envelope.client = old.client.clone();
        envelope.sasl = old.sasl.clone();
        envelope.message_id.clone_from(&old.message_id);
        let original = match (forward.owned, known.original.is_empty()) {
            (true, _) => String::new(),
            (false, true) => known.address,
            (false, false) => known.original,
        };
        envelope.recipients = forward
            .recipients
            .into_iter()
            .map(|address| Recipient {
                address,
                original: original.clone(),
                orcpt: orcpt.clone(),
                notify,
                ..Recipient::default()
            })
            .collect();
        envelope.size = request.content.len();
        let mut submission = Submission::new(envelope, request.content.clone(), Source::Forwarded);
        let generation = engine.current().get();
        let mut fields = format!(
            "Received: by {} ({})\n\tid {id}; {}\n",
            generation.myhostname,
            generation.mail_name,
            engine.date(now)
        );
        if !forward.delivered_to.is_empty() {
            fields.push_str(&format!("Delivered-To: {}\n", yamabiko_address::quote(&forward.delivered_to)));
        }
        drop(generation);
        submission.trace_fields = fields.into_bytes();
        match engine.accept(submission, None).await {
            Ok(Taken::Queued(id) | Taken::Discarded(id) | Taken::Returned(id) | Taken::Counted(id)) => Ok(id),
            Err(refusal) => Err(format!("unable to forward: {}", refusal.text)),
        }
    }

    async fn pass_on(
        &self,
        request: &DeliveryRequest,
        recipient: usize,
        address: &str,
        transport: &str,
        nexthop: &str,
    ) -> Vec<Outcome> {
        let Some(known) = request.recipients.get(recipient) else { return Vec::new() };
        if *request.transport == *transport {
            self.warn(format!("transport {transport} hands mail to itself; see mailbox_transport, fallback_transport"));
            let why = "mail system configuration error";
            let all = crate::outcome::deferred(request, EnhancedStatus::transient(3, 5), why).outcomes;
            return all.into_iter().filter(|outcome| outcome.recipient == known.index).collect();
        }
        let passed = Arc::new(DeliveryRequest {
            transport: transport.into(),
            nexthop: nexthop.into(),
            recipients: vec![DeliveryRecipient { index: known.index, address: address.to_owned() }],
            ..request.clone()
        });
        match self.engine() {
            Ok(engine) => {
                let (attempt, _) = engine.current().deliver(&passed).await;
                // The line is the other agent's, under its name.
                for outcome in &attempt.outcomes {
                    engine.current().emit_outcome(&passed, outcome);
                }
                let logged = |outcome| Outcome { logged: true, ..outcome };
                attempt.outcomes.into_iter().map(logged).collect()
            }
            Err(_) => Vec::new(),
        }
    }
}

/// The same wishes without that for success; where that was the only one, for nothing at all.
fn without_success(notify: Notify) -> Notify {
    let rest = Notify { success: false, ..notify };
    if rest.is_unset() && !notify.is_unset() { Notify { never: true, ..rest } } else { rest }
}

impl Surroundings for Around {
    fn work<'a>(&'a self, user: As, job: Job, content: Option<&'a Content>) -> Boxed<'a, io::Result<Done>> {
        Box::pin(async move { self.workers.run(user, &job, content).await })
    }

    fn route<'a>(&'a self, address: &'a str) -> Boxed<'a, Result<Destination, String>> {
        Box::pin(async move {
            let generation = self.engine()?.current().get();
            let address = generation.router.rewriter().rewrite(RewriteContext::Local, address).into_owned();
            let resolved = generation.router.resolve("", &address).await.map_err(|error| {
                self.warn(error.to_string());
                "address resolver failure".to_owned()
            })?;
            Ok(Destination { transport: resolved.transport, nexthop: resolved.nexthop, address: resolved.recipient })
        })
    }

    fn forward<'a>(&'a self, request: &'a DeliveryRequest, forward: Forward) -> Boxed<'a, Result<QueueId, String>> {
        Box::pin(self.forward_message(request, forward))
    }

    fn pass<'a>(
        &'a self,
        request: &'a DeliveryRequest,
        recipient: usize,
        address: &'a str,
        transport: &'a str,
        nexthop: &'a str,
    ) -> Boxed<'a, Vec<Outcome>> {
        Box::pin(self.pass_on(request, recipient, address, transport, nexthop))
    }

    fn warn(&self, text: String) {
        if let Some(engine) = self.acceptance.get() {
            let kind = yamabiko_envelope::Kind::Text { severity: Severity::Warning, queue_id: None, text };
            engine.current().emit("local", Timestamp::now(), kind);
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn user(&self, name: &str) -> Result<Option<Arc<User>>, String> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, user)) = users.get(name).filter(|(asked, _)| asked.elapsed() < USER_SERVES) {
            return Ok(Some(Arc::clone(user)));
        }
        drop(users);
        let found = ask_users(|| nix::unistd::User::from_name(name)).map_err(|error| error.to_string())?;
        let Some(user) = found else { return Ok(None) };
        let user = Arc::new(User {
            name: user.name,
            uid: user.uid.as_raw(),
            home: user.dir.to_string_lossy().into_owned(),
            shell: user.shell.to_string_lossy().into_owned(),
        });
        users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS {
            users.retain(|_, (asked, _)| asked.elapsed() < USER_SERVES);
        }
        if users.len() < USERS {
            users.insert(name.to_owned(), (Instant::now(), Arc::clone(&user)));
        }
        Ok(Some(user))
    }

    fn user_name(&self, uid: u32) -> Result<Option<String>, String> {
        let found = ask_users(|| nix::unistd::User::from_uid(uid.into())).map_err(|error| error.to_string())?;
        Ok(found.map(|user| user.name))
    }
}
