//! What programs write for people and other programs. The macros of the standard library panic if the reader has gone,
//! as in `distillery measure … 2>&1 | head`: nothing here uses them.

use std::io;

/// Writes a line to standard error, whether somebody reads it or not. Takes what `eprintln!` takes.
#[macro_export]
macro_rules! tell {
    ($($words:tt)*) => {{
        let _ = ::std::io::Write::write_fmt(
            &mut ::std::io::stderr(),
            ::std::format_args!("{}\n", ::std::format_args!($($words)*)),
        );
    }};
}

/// Whether an error means that the reader of the output has gone. Nobody need be told of that.
#[must_use]
pub fn is_unread(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}
