//! Delivery status notifications composed and parsed.
