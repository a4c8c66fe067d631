//! Progress bars on stderr, hidden where that is not a terminal.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// A bar labelled `message`, gone when dropped; its length is set by whoever advances it.
pub fn bar(message: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(message).with_finish(ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template("{msg:>16} {bar:40} {percent:>3} % {elapsed}") {
        bar.set_style(style);
    }
    bar
}
