//! One short-lived process under the recipient's uid.
