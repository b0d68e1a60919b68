//! What a command says besides its work. When nobody reads it (`| head`) the work is done all the same; the library's own
//! `println!` would end the program in the middle of it.

/// A line on standard output.
#[macro_export]
macro_rules! say {
    ($($what:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stdout(), $($what)*);
    }};
}

/// Text on standard output that ends its own lines.
#[macro_export]
macro_rules! say_text {
    ($($what:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::write!(::std::io::stdout(), $($what)*);
    }};
}
