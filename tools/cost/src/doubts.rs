//! Where an assumption of the method looks broken, as far as a shape and the prompts' words show it. `docs/method.md` measures
//! what each costs; this cannot see what the prompts mean.

use std::collections::BTreeSet;

use crate::problem::Workload;

/// Words that point at another answer.
const POINTERS: [&str; 6] = ["above", "chosen", "former", "latter", "previous", "remaining"];
/// Words that ask for a reading of the whole input that only the prompt names.
const READINGS: [&[&str]; 4] = [&["how", "many"], &["how", "often"], &["number", "of"], &["count"]];
const ORDINALS: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "sixth"];
/// From so many prompts on that are alike but for a number, they look like one list.
const LIST: usize = 3;

/// One line for each assumption that looks broken. `prompts` are empty where ids alone are known.
pub fn doubts(work: &Workload, prompts: &[String]) -> Vec<String> {
    let prompts: Vec<Vec<String>> = prompts.iter().map(|prompt| words(prompt)).collect();
    let mut doubts = Vec::new();
    if work.prompts <= 1 {
        doubts.push("1 prompt per input: there is nothing to share".to_owned());
    }
    if work.prompt_tokens >= work.keys {
        doubts.push(format!(
            "prompts of {} tokens are as long as the input of {}: little is shared, and the decoder reads a prompt from left to right \
             alone (docs/method.md, long prompts)",
            work.prompt_tokens, work.keys
        ));
    }
    let found =
        |doubted: &dyn Fn(&[String]) -> bool| prompts.iter().find(|prompt| doubted(prompt.as_slice()));
    if let Some(prompt) = found(&|prompt| READINGS.iter().any(|words| holds(prompt, words))) {
        doubts.push(format!(
            "\"{}\" asks to count: the encoder reads the input without knowing what for (docs/method.md, counting)",
            prompt.join(" ")
        ));
    }
    if let Some(prompt) = found(&|prompt| POINTERS.iter().any(|word| holds(prompt, &[word]))) {
        doubts.push(format!(
            "\"{}\" points at another answer, which its row does not see: ask in order, or for everything in one sequence \
             (docs/method.md, choice)",
            prompt.join(" ")
        ));
    }
    if let Some((prompt, times)) = list(&prompts) {
        doubts.push(format!(
            "{times} prompts are \"{prompt}\" but for a number, as of one list cut into its places: ask for the list in one sequence \
             (docs/method.md, order)"
        ));
    }
    doubts
}

fn words(text: &str) -> Vec<String> {
    let plain = |c: char| c.is_alphanumeric() || c == '\'';
    text.to_lowercase().split(|c| !plain(c)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn holds(prompt: &[String], words: &[&str]) -> bool {
    prompt.windows(words.len()).any(|window| window == words)
}

/// The prompt that most are, with "N" for a number, and how many.
fn list(prompts: &[Vec<String>]) -> Option<(String, usize)> {
    let number = |word: &String| {
        let digits = word.trim_end_matches(|c: char| c.is_ascii_lowercase());
        ORDINALS.contains(&word.as_str())
            || (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut kinds = std::collections::BTreeMap::<String, BTreeSet<&[String]>>::new();
    for prompt in prompts.iter().filter(|prompt| prompt.iter().any(number)) {
        let kind: Vec<&str> = prompt.iter().map(|word| if number(word) { "N" } else { word }).collect();
        kinds.entry(kind.join(" ")).or_default().insert(prompt);
    }
    let most = kinds.into_iter().max_by_key(|(_, prompts)| prompts.len())?;
    Some((most.0, most.1.len())).filter(|(_, times)| *times >= LIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Workload = Workload { inputs: 1, prompts: 4, keys: 512, prompt_tokens: 5, new_tokens: 10 };

    fn of(prompts: &[&str]) -> Vec<String> {
        doubts(&WORK, &prompts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn prompts_of_the_papers_tasks_raise_none() {
        assert_eq!(of(&["hotel area", "hotel stars", "train day", "taxi arrive by"]), [""; 0]);
        assert_eq!(
            of(&["Where was she born?", "Who is her brother?", "What is the account of it?"]),
            [""; 0]
        );
        // Two are no list, and one number is not another kind of prompt.
        assert_eq!(of(&["room 1", "room 2", "stars", "hall 3"]), [""; 0]);
        // The same prompt again is not another place.
        assert_eq!(of(&["room 1", "room 1", "room 1"]), [""; 0]);
    }

    #[test]
    fn each_broken_assumption_is_named() {
        let one = |doubts: Vec<String>, words: &str| {
            assert!(doubts.len() == 1 && doubts[0].contains(words), "{words}: {doubts:?}");
        };
        one(doubts(&Workload { prompts: 1, ..WORK }, &[]), "1 prompt per input");
        one(
            doubts(&Workload { prompt_tokens: 512, ..WORK }, &[]),
            "prompts of 512 tokens are as long as the input of 512",
        );
        one(of(&["who", "How many red cars?"]), "\"how many red cars\" asks to count");
        one(
            of(&["hotel", "area of the chosen hotel"]),
            "\"area of the chosen hotel\" points at another answer",
        );
        one(of(&["place 1?", "Place 2?", "place 10?"]), "3 prompts are \"place N\" but for a number");
        one(
            of(&["the first stop", "the second stop", "the 3rd stop", "date"]),
            "3 prompts are \"the N stop\"",
        );
    }
}
