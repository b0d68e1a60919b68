//! Local parts, domains, reverse-paths, forward-paths: parse, compare, write.
