//! What the sections of `docs/performance.md` are put together from.

use std::collections::BTreeMap;

use super::data::{Machine, Peer};

/// Texts by their path in the repository.
pub type Files = BTreeMap<String, String>;

/// The machine in one line: what stands under a figure.
pub fn source(machine: &Machine) -> String {
    let mut parts = vec![
        machine.card.clone(),
        format!("compute capability {}", machine.compute_capability),
        format!("{} multiprocessors", machine.multiprocessors),
    ];
    parts.extend(machine.driver.as_ref().map(|driver| format!("driver {driver}")));
    parts.extend(machine.torch.as_ref().map(|torch| format!("PyTorch {torch}")));
    parts.extend(machine.commit.as_ref().map(|commit| format!("onekv at {commit}")));
    parts.push(machine.date.clone().unwrap_or_else(|| "date not recorded".to_owned()));
    parts.join(", ")
}

/// Three significant digits.
pub fn short(value: f64) -> String {
    let whole = if value > 0.0 { value.log10().floor() as i32 + 1 } else { 1 };
    format!("{value:.*}", (3 - whole).clamp(0, 6) as usize)
}

/// A figure in the page.
pub fn picture(title: &str, path: &str) -> String {
    format!("\n![{title}](../{path})\n")
}

/// What a reader need not see at first.
pub fn folded(summary: &str, text: &str) -> String {
    format!("\n<details><summary>{summary}</summary>\n\n{text}\n</details>\n")
}

/// What was not measured and why, each reason once.
pub fn without_time(peers: &BTreeMap<String, Peer>, errors: &[(String, String)], left_out: usize) -> String {
    let mut reasons: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (system, error) in errors {
        *reasons.entry((system, error)).or_default() += 1;
    }
    let mut text = String::new();
    for (name, peer) in peers {
        match &peer.absent {
            Some(why) => text += &format!("- {name} was not measured: {why}\n"),
            None => {
                text += &format!("- {name} {}\n", peer.version.as_deref().unwrap_or("of unknown version"))
            }
        }
    }
    for ((system, error), shapes) in reasons {
        let error = error.lines().next().unwrap_or_default();
        text += &format!("- {system}: no time for {shapes} of its shapes: {error}\n");
    }
    if left_out > 0 {
        text += &format!("- The time budget left out {left_out} more measurements.\n");
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}
