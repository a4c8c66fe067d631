//! The terminal: `println!` for a standard output that may be closed or full, on which std's panics, and progress bars.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _, stdout};
use std::process::exit;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::cli::out::line(format_args!($($argument)*)) };
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

/// A progress bar on stderr labelled `message`, hidden where that is not a terminal and gone when dropped; its length is set by
/// whoever advances it.
pub fn bar(message: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(message).with_finish(ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template("{msg:>16} {bar:40} {percent:>3} % {elapsed}") {
        bar.set_style(style);
    }
    bar
}
