//! The only unsafe code: users, descriptors, locks, durable rename, POSIX regular expressions.
