//! Aliases, .forward, mailbox, maildir and commands as the recipient.
