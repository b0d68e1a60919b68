//! Complete, rewrite and check a message.
