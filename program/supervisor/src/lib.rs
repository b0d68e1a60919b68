//! Reads root-owned configuration, binds ports, starts the rest; never sees mail.
