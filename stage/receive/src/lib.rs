//! The SMTP server: dialogue, restrictions, admission.
