//! Every input of the corpus, and many that lie close to one: what the fuzzer once found stays
//! found, with the ordinary tool chain and in seconds.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;

use muster_agent::fuzzing::TARGETS;

/// Changed copies of each input.
const VARIANTS: u64 = 200;

/// A small generator of its own: the same inputs in every run, so that a failure is found again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }
}

/// The input with a few bytes changed, put in, taken away or repeated.
fn varied(input: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let byte = u8::try_from(chance.below(256)).unwrap();
        match chance.below(4) {
            0 if at < bytes.len() => bytes[at] = byte,
            1 if at < bytes.len() => bytes.truncate(at),
            2 => {
                let end = (at + chance.below(16)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.insert(at, byte),
        }
    }
    bytes
}

#[test]
fn every_known_input_and_its_neighbours_are_read_or_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, run) in TARGETS {
        let folder = corpus.join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| {
            panic!("{}: {error}: a parser needs examples", folder.display())
        });
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", folder.display());
        for file in files {
            let input = fs::read(&file).unwrap();
            run(&input);
            let mut chance = Chance(0x9E37_79B9_7F4A_7C15);
            for variant in 0..VARIANTS {
                let bytes = varied(&input, &mut chance);
                let result = std::panic::catch_unwind(|| run(&bytes));
                assert!(
                    result.is_ok(),
                    "{name}: variant {variant} of {}: {bytes:?}",
                    file.display()
                );
            }
        }
    }
}
