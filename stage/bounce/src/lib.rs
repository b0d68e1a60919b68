//! Turn outcomes into notices, and know when not to.
