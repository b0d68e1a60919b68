//! SMTP and LMTP commands, replies, extensions; data framing; client reply reading.
