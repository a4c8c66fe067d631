//! Calls that fail because a test asks for it (`api::inject`), or `PTXSIM_FAIL`. A driver may answer every call with an error:
//! this is how a program is seen to do something sensible with each.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, Once, PoisonError};

use crate::exported::exported;
use crate::state::{current, lock};
use crate::status::{Code, Outcome};

/// The environment's wish: `names:nth:code`, with `:on` behind it for that call and all later ones.
const VARIABLE: &str = "PTXSIM_FAIL";

/// Which calls fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Exported functions; none: all of them.
    pub(crate) names: Vec<String>,
    /// Calls of these before the one that fails.
    pub(crate) nth: u64,
    pub(crate) code: Code,
    /// Whether all later ones fail too, as where memory has run out.
    pub(crate) lasts: bool,
}

impl Wish {
    /// The wish in the environment's words.
    pub(crate) fn parse(text: &str) -> Result<Wish, String> {
        let wrong = |what: String| {
            format!(
                "{what}; allowed: function,...:calls before it:code or, for all from there on, the same with :on"
            )
        };
        let parts: Vec<&str> = text.split(':').collect();
        let ([names, nth, code], lasts) = match parts[..] {
            [names, nth, code] => ([names, nth, code], false),
            [names, nth, code, "on"] => ([names, nth, code], true),
            _ => return Err(wrong(format!("`{text}` is no wish"))),
        };
        let nth = nth.parse().map_err(|_| wrong(format!("`{nth}` is no number of calls")))?;
        let code = code.parse().map(Code).ok().filter(|code| is_error(*code));
        let code = code.ok_or_else(|| wrong(format!("`{}` is no error's code", parts[2])))?;
        Ok(Wish { names: names_of(names)?, nth, code, lasts })
    }

    fn names(&self, call: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name == call)
    }
}

/// Whether a driver has an error of this code.
pub(crate) fn is_error(code: Code) -> bool {
    code != Code(0) && code.name().is_some()
}

/// Names of exported functions, by commas; `*`: all.
pub(crate) fn names_of(text: &str) -> Result<Vec<String>, String> {
    if text == "*" {
        return Ok(Vec::new());
    }
    let known = |name: &str| match exported(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(format!("`{name}` is no function of this driver; allowed: names as exported, or *")),
    };
    text.split(',').map(known).collect()
}

/// What was asked for last, and the calls since.
struct Asked {
    wish: Option<Wish>,
    /// Calls that the wish names.
    seen: u64,
    failed: u64,
    /// `None`: not kept, as only a test asks for them.
    calls: Option<Vec<&'static str>>,
}

static ASKED: Mutex<Asked> = Mutex::new(Asked { wish: None, seen: 0, failed: 0, calls: None });
/// Whether there is anything to do at a call.
static ON: AtomicBool = AtomicBool::new(false);

fn asked<T>(with: impl FnOnce(&mut Asked) -> T) -> T {
    with(&mut ASKED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Counts and keeps calls from now on, and lets those fail that the wish names.
pub(crate) fn ask(wish: Option<Wish>) {
    asked(|all| *all = Asked { wish, seen: 0, failed: 0, calls: Some(Vec::new()) });
    ON.store(true, Relaxed);
}

/// The name of a call since.
pub(crate) fn call(index: usize) -> Option<&'static str> {
    asked(|all| all.calls.as_ref()?.get(index).copied())
}

/// How many have failed since because that was asked for.
pub(crate) fn failed() -> u64 {
    asked(|all| all.failed)
}

/// Takes the wish of the environment, the first time. A program that goes on as if nothing was to fail would show nothing.
fn take_environment() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(text) = std::env::var(VARIABLE) else { return };
        match Wish::parse(&text) {
            Ok(wish) => {
                asked(|all| all.wish = Some(wish));
                ON.store(true, Relaxed);
            }
            Err(why) => eprintln!("ptxsim: {VARIABLE}: {why}; no call fails"),
        }
    });
}

/// What the call that begins is to return instead of doing anything.
pub(crate) fn begin(name: &'static str) -> Outcome {
    take_environment();
    if !ON.load(Relaxed) {
        return Ok(());
    }
    let code = asked(|all| {
        if let Some(calls) = &mut all.calls {
            calls.push(name);
        }
        let wish = all.wish.as_ref().filter(|wish| wish.names(name))?;
        let number = all.seen;
        all.seen += 1;
        let fails = number == wish.nth || number > wish.nth && wish.lasts;
        all.failed += u64::from(fails);
        fails.then_some(wish.code)
    });
    let Some(code) = code else { return Ok(()) };
    if code.loses_the_context() {
        let mut driver = lock();
        let card = current(|stack| stack.last().copied()).and_then(|context| driver.card_of(context));
        if let Some(card) = card {
            driver.cards[card].sticky.get_or_insert(code.into());
        }
    }
    Err(code.because("as was asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_what_they_say_or_errors_that_say_what_is_allowed() {
        // A test does not export functions, so that none has a name.
        let wish = |nth, code, lasts| Wish { names: Vec::new(), nth, code: Code(code), lasts };
        assert_eq!(Wish::parse("*:0:719"), Ok(wish(0, 719, false)));
        assert_eq!(Wish::parse("*:3:2:on"), Ok(wish(3, 2, true)));
        for (text, part) in [
            ("", "`` is no wish"),
            ("cuInit:1", "`cuInit:1` is no wish"),
            ("*:x:2", "`x` is no number of calls"),
            ("*:0:0", "`0` is no error's code"),
            ("*:0:12345", "`12345` is no error's code"),
            ("*:0:2:off", "is no wish"),
            ("cuNothing:0:2", "`cuNothing` is no function of this driver"),
        ] {
            let said = Wish::parse(text).unwrap_err();
            assert!(said.contains(part) && said.contains("allowed: "), "{text}: {said}");
        }
    }
}
