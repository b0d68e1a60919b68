//! Authentication of clients (SASL, RFC 4422; RFC 4954), without I/O.
//!
//! * [`dovecot`]: the client's side of Dovecot's authentication protocol, which decides for most sites.
//! * [`exchange`]: PLAIN, LOGIN and SCRAM at the server, for sites that have no Dovecot, with [`passwords`] from a table and
//!   the arithmetic of [`scram`].
//! * [`client`]: the other side, for a client that sends mail: PLAIN, LOGIN, CRAM-MD5, SCRAM, XOAUTH2, OAUTHBEARER.
//! * [`mechanisms`]: what mechanisms are like, and `smtpd_sasl_security_options`.
//! * [`base64`]: as strict as secrets need it.
//!
//! What can be relied on: nothing a client or a server sends makes it panic or grow; secrets are compared in constant time;
//! nothing here stores or logs a password.

pub mod base64;
pub mod client;
pub mod dovecot;
pub mod exchange;
pub mod md5;
pub mod mechanisms;
pub mod passwords;
pub mod scram;
