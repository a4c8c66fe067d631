//! `println!` for a standard output that may be closed or full, on which std's panics.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _, stdout};
use std::process::exit;

#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::out::line(format_args!($($argument)*)) };
}

/// Writes one line. A reader that has seen enough (`| head`) ends the program quietly.
pub fn line(text: Arguments<'_>) {
    match writeln!(stdout(), "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        Err(error) => {
            eprintln!("error: cannot write to standard output: {error}");
            exit(2);
        }
    }
}
