//! Store messages durably: a segmented log with group commit.
