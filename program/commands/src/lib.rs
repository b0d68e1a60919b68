//! sendmail, postqueue, postsuper, postcat, postconf, postmap and the others.
//!
//! Each command is a module with `run`; what all of them begin with is in [`context`], how options are read in
//! [`getopt`]. They speak to a running engine over the control socket and to nobody else.

pub mod context;
pub mod getopt;
pub mod postconf;
pub mod postfix;
pub mod queue_view;
