//! The questions mail asks of DNS, with a fake made from a literal.
