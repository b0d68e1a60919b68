//! The SMTP and LMTP client, discard and error.
