//! A small engine around the schedule, with a clock that is a number: deliveries take as long as the test says.

// Not every test asks for everything.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use yamabiko_envelope::{QueueId, Timestamp};
use yamabiko_schedule::{Action, Delivery, Feedback, Route, Schedule, Settings, destination_name, sender_hash};
use yamabiko_status::EnhancedStatus;

pub struct Mail {
    pub sender: String,
    /// The next hop of each recipient, by the number of the recipient.
    pub nexthop: Box<dyn Fn(u32) -> String>,
    pub recipients: u32,
    pub arrived: Timestamp,
    handed: u32,
    /// When its first delivery began, and when it was over.
    pub began: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub deferred: u32,
}

/// How long a delivery takes, and whether the destination is there.
pub type Takes = Box<dyn Fn(&Delivery) -> (Duration, bool)>;

pub struct World {
    pub schedule: Schedule,
    pub now: Timestamp,
    pub mail: HashMap<QueueId, Mail>,
    /// By the time of their end.
    running: BTreeMap<(Timestamp, u64), Delivery>,
    started: u64,
    pub delivery: Takes,
    /// Everything that the schedule wanted.
    pub actions: u64,
    pub deliveries: u64,
}

pub fn id(n: u64) -> QueueId {
    QueueId::new(n, 1)
}

impl World {
    pub fn new(settings: Settings) -> Self {
        Self {
            schedule: Schedule::new(settings),
            now: Timestamp::from_seconds(1_000_000),
            mail: HashMap::new(),
            running: BTreeMap::new(),
            started: 0,
            delivery: Box::new(|_| (Duration::from_secs(1), true)),
            actions: 0,
            deliveries: 0,
        }
    }

    pub fn arrive(&mut self, n: u64, sender: &str, recipients: u32, nexthop: impl Fn(u32) -> String + 'static) {
        let mail = Mail {
            sender: sender.to_owned(),
            nexthop: Box::new(nexthop),
            recipients,
            arrived: self.now,
            handed: 0,
            began: None,
            finished: None,
            deferred: 0,
        };
        self.mail.insert(id(n), mail);
        self.schedule.message_arrived(id(n), sender_hash(sender));
    }

    /// Does all that is to be done at this moment.
    pub fn work(&mut self) {
        while let Some(action) = self.schedule.poll(self.now) {
            self.actions += 1;
            match action {
                Action::Activate { message, limit, .. } => {
                    let mail = self.mail.get_mut(&message).unwrap();
                    let until = mail.recipients.min(mail.handed + limit as u32);
                    let routes = (mail.handed..until).map(|recipient| {
                        let nexthop = (mail.nexthop)(recipient);
                        let destination = destination_name(&nexthop, None).into();
                        Route { recipient, transport: "smtp".into(), nexthop: nexthop.into(), destination }
                    });
                    let routes = routes.collect();
                    mail.handed = until;
                    let more = until < mail.recipients;
                    self.schedule.activated(message, &mail.sender, routes, more, self.now);
                }
                Action::Deliver(delivery) => {
                    self.mail.get_mut(&delivery.message).unwrap().began.get_or_insert(self.now);
                    let (time, _) = (self.delivery)(&delivery);
                    self.started += 1;
                    self.deliveries += 1;
                    self.running.insert((self.now + time, self.started), delivery);
                }
                Action::Defer(deferral) => {
                    self.mail.get_mut(&deferral.message).unwrap().deferred += deferral.recipients.len() as u32;
                }
                Action::Finished(message) => {
                    self.mail.get_mut(&message).unwrap().finished = Some(self.now);
                }
                Action::Clogged(_) | Action::Learned(_) | Action::Feedbacks(_) | Action::Window(_) => {}
            }
        }
    }

    /// Goes on to the end of the next delivery. False when none runs.
    pub fn step(&mut self) -> bool {
        self.work();
        let Some(((end, n), _)) = self.running.first_key_value() else { return false };
        let (end, n) = (*end, *n);
        self.now = self.now.max(end);
        let delivery = self.running.remove(&(end, n)).unwrap();
        let feedback = match (self.delivery)(&delivery).1 {
            true => Feedback::Answered,
            false => {
                Feedback::DestinationFailure { status: EnhancedStatus::transient(4, 1), reason: "down".to_owned() }
            }
        };
        self.schedule.delivery_done(delivery.id, feedback, self.now);
        true
    }

    /// Lets time pass.
    pub fn until(&mut self, at: Timestamp) {
        self.work();
        while self.running.first_key_value().is_some_and(|((end, _), _)| *end <= at) {
            self.step();
            self.work();
        }
        while let Some(deadline) = self.schedule.next_deadline().filter(|deadline| *deadline <= at) {
            self.now = self.now.max(deadline);
            self.work();
            if self.running.first_key_value().is_some_and(|((end, _), _)| *end <= at) {
                return self.until(at);
            }
        }
        self.now = self.now.max(at);
        self.work();
    }
}
