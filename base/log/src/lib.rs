//! Postfix-style log lines made from typed events, and the places they go.
