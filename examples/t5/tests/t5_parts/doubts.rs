//! Prompts that an assumption of the method does not hold for.

use t5::advice::doubts::doubts;
use t5::cost::Workload;

const WORK: Workload = Workload { inputs: 1, prompts: 4, keys: 512, prompt_tokens: 5, new_tokens: 10 };

fn of(prompts: &[&str]) -> Vec<String> {
    doubts(&WORK, &prompts.iter().map(ToString::to_string).collect::<Vec<_>>())
}

#[test]
fn prompts_of_the_papers_tasks_raise_none() {
    assert_eq!(of(&["hotel area", "hotel stars", "train day", "taxi arrive by"]), [""; 0]);
    assert_eq!(of(&["Where was she born?", "Who is her brother?", "What is the account of it?"]), [""; 0]);
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
    one(of(&["hotel", "area of the chosen hotel"]), "\"area of the chosen hotel\" points at another answer");
    one(of(&["place 1?", "Place 2?", "place 10?"]), "3 prompts are \"place N\" but for a number");
    one(of(&["the first stop", "the second stop", "the 3rd stop", "date"]), "3 prompts are \"the N stop\"");
}
