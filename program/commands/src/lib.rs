//! sendmail, postqueue, postsuper, postcat, postconf, postmap and the others.

pub mod postconf;
