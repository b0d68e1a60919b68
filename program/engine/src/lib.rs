//! Unprivileged wiring of all stages.
