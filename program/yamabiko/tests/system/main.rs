//! The program as its users meet it: started by its commands, spoken to over sockets, killed at bad moments.
//!
//! Everything runs under the user who runs the tests, root or not, in a temporary directory and on addresses of the
//! loopback network, so it needs nothing of the machine and disturbs nothing on it.
//!
//! * `harness` starts, drives and ends a mail system ([`harness::Instance`]), speaks SMTP to it
//!   ([`harness::Client`]) and stands for the next hop ([`harness::Sink`]).
//! * `scripts` runs the files in `tests/scripts/`: adding a case is adding a file.
//! * `life` is starting, reloading and stopping; `queue` is the operator's work on the queue; `crash` kills;
//!   `agents` is commands of master.cf and Dovecot; `hostile` is users who want what is not theirs;
//!   `month` is a month of mail, and what the ledger says of it;
//!   `disk` fills disks and makes them fail; `policy` is others who decide about mail; `crowd` is many clients that say
//!   nothing; `rehearsal` has receivers of many moods, `shaping` receivers with limits; `door` is what stands before a
//!   session: postscreen, a load balancer; `authentication` is SPF, DKIM and DMARC; `bounces` is the life of notices: loops,
//!   storms, qmail's ways, controls;
//!   `peers` is real mail systems as next hops, `strict_transport` is MTA-STS;
//!   `strangers` is tricks of relay testers and the like; `scanners` is filters that look for spam and viruses.

#![allow(missing_docs)]

mod agents;
mod authentication;
mod bounces;
mod crash;
mod crowd;
mod disk;
mod door;
mod harness;
mod hostile;
mod ledger;
mod life;
mod lists;
mod milter;
mod month;
mod operators;
mod peers;
mod policy;
mod queue;
mod rehearsal;
mod scanners;
mod scripts;
mod shaping;
mod strangers;
mod strict_transport;
mod submission;
