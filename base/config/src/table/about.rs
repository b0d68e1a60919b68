//! Short explanations of parameters, for help pages and reports.

/// One sentence about the named parameter, or nothing.
pub(super) fn about(_name: &str) -> &'static str {
    ""
}
