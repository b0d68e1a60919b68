//! Decide who is tried next, where and when; is told the time.
