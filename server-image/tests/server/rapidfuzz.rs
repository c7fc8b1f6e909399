//! The fuzzy score beside its judge, RapidFuzz itself, run by Python.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mcp_server::tools::shared_context::search::partial_ratio;
use serde_json::json;

/// Pairs of texts in the comparison; a second of RapidFuzz.
const PAIRS: usize = 20_000;

const WORDS: [&str; 16] = [
    "the", "quick", "agent", "session", "message", "error", "timeout", "cache", "database", "index", "query", "search",
    "fuzzy", "score", "déjà", "結果",
];
const ALPHABETS: [&str; 10] = [
    "ab",
    "abc",
    "abcdefghij",
    "abcdefghijklmnopqrstuvwxyz ",
    "äöüßéàñ",
    "日本語中文字漢",
    "😀😃😄a",
    "abāĀȀ",
    "ÿĀa\0",
    "a",
];
/// Lengths where words of 64 bits begin and end, and what is usual.
const LENGTHS: [usize; 16] = [0, 1, 2, 3, 5, 10, 20, 40, 63, 64, 65, 100, 127, 128, 129, 200];
const CUTOFFS: [f64; 9] = [
    50.0,
    60.0,
    80.0,
    99.9,
    100.0,
    100.000_1,
    33.333_333_333,
    66.666_666_666_666_67,
    66.666_666_666_666_66,
];

/// Pseudo-random numbers (xorshift), the same in each run, so that a difference can be looked at again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % bound as u64).unwrap()
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn length(&mut self) -> usize {
        if self.below(5) < 3 {
            self.of(&LENGTHS)
        } else {
            self.below(150)
        }
    }

    fn text(&mut self, length: usize) -> String {
        if self.below(10) < 3 {
            let mut words = String::new();
            while words.chars().count() < length {
                words.push_str(self.of(&WORDS));
                words.push(' ');
            }
            return words.chars().take(length).collect();
        }
        let alphabet: Vec<char> = self.of(&ALPHABETS).chars().collect();
        (0..length).map(|_| self.of(&alphabet)).collect()
    }

    /// `text` with some characters left out, added or replaced.
    fn garbled(&mut self, text: &str) -> String {
        let mut characters: Vec<char> = text.chars().collect();
        for _ in 0..=self.below(1 + characters.len() / 4) {
            let place = self.below(characters.len() + 1);
            let stranger = self.of(&['a', 'b', ' ', '日']);
            match self.below(3) {
                0 if place < characters.len() => drop(characters.remove(place)),
                1 if place < characters.len() => characters[place] = stranger,
                _ => characters.insert(place, stranger),
            }
        }
        characters.into_iter().collect()
    }

    fn around(&mut self, text: &str, most: usize) -> String {
        let (before, after) = (self.below(most), self.below(most));
        format!("{}{}{}", self.text(before), self.garbled(text), self.text(after))
    }

    fn pair(&mut self) -> (String, String) {
        let length = self.length();
        let first = self.text(length);
        let second = match self.below(100) {
            0..25 => {
                let length = self.length();
                self.text(length)
            }
            25..45 => self.text(length),
            45..55 => self.garbled(&first),
            55..85 => self.around(&first, 100),
            85..97 => first.repeat(1 + self.below(4)) + "x",
            97 => self.around(&first, 3000),
            98 => {
                let needle = 200 + self.below(500);
                let needle = self.text(needle);
                let text = self.around(&needle, 600);
                return (needle, text);
            }
            _ => {
                let (first, second) = (500 + self.below(600), 400 + self.below(1200));
                return (self.text(first), self.text(second));
            }
        };
        if self.below(2) == 0 {
            (first, second)
        } else {
            (second, first)
        }
    }

    fn cutoff(&mut self, first: &str, second: &str) -> f64 {
        let score = partial_ratio(first, second, 0.0);
        match self.below(8) {
            0..3 => 0.0,
            3 => self.of(&CUTOFFS),
            4 => f64::from(u32::try_from(self.below(10_000)).unwrap()) / 99.0,
            5 => score,
            6 => score.next_up(),
            _ => score.next_down().max(0.0),
        }
    }
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients")
}

/// What RapidFuzz gives for each pair and cutoff.
fn judge(questions: &[(String, String, f64)]) -> Vec<f64> {
    let python = Command::new(clients().join("venv.sh"))
        .arg("rapidfuzz.txt")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(
        python.status.success(),
        "Python with RapidFuzz could not be had; see the message above"
    );
    let mut child = Command::new(String::from_utf8(python.stdout).unwrap().trim())
        .arg(clients().join("rapidfuzz_scores.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut input = BufWriter::new(input);
            for (first, second, cutoff) in questions {
                writeln!(input, "{}", json!([first, second, cutoff.to_string()])).unwrap();
            }
        });
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "RapidFuzz failed");
        let scores = String::from_utf8(output.stdout).unwrap();
        scores.lines().map(|score| score.parse().unwrap()).collect()
    })
}

/// A score that differs from RapidFuzz's in the last bit can put another message on top, or over an agent's threshold.
#[test]
fn scores_are_exactly_those_of_rapidfuzz() {
    let mut random = Random(0x5eed_0f5c_07e5);
    let questions: Vec<_> = (0..PAIRS)
        .map(|_| {
            let (first, second) = random.pair();
            let cutoff = random.cutoff(&first, &second);
            (first, second, cutoff)
        })
        .collect();
    let expected = judge(&questions);
    assert_eq!(expected.len(), questions.len());
    let above_zero = expected.iter().filter(|score| **score > 0.0).count();
    assert!(
        above_zero > PAIRS / 3,
        "only {above_zero} pairs have a score to compare"
    );
    for ((first, second, cutoff), expected) in questions.iter().zip(expected) {
        let found = partial_ratio(first, second, *cutoff);
        assert_eq!(
            found.to_bits(),
            expected.to_bits(),
            "{found}, RapidFuzz says {expected}: {first:?} and {second:?} from {cutoff}"
        );
    }
}

/// The vectors that are checked without Python must be RapidFuzz's, whoever edits them.
#[test]
fn the_committed_vectors_are_those_of_rapidfuzz() {
    let file = "src/tools/shared_context/search/partial_ratio/vectors.jsonl";
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let vectors: Vec<(String, String, String, String)> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let questions: Vec<_> = vectors
        .iter()
        .map(|(first, second, cutoff, _)| (first.clone(), second.clone(), cutoff.parse().unwrap()))
        .collect();
    for (vector, score) in vectors.iter().zip(judge(&questions)) {
        assert_eq!(
            score.to_bits(),
            vector.3.parse::<f64>().unwrap().to_bits(),
            "{vector:?}"
        );
    }
}
