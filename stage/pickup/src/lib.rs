//! Local submissions: the maildrop file format, written by postdrop and read back trusting nothing.
