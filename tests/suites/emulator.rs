//! The corpus against the built modules in the emulator.

use sailcloth_tests::{corpus, emulator, subject};

#[test]
fn the_corpus_holds_in_the_emulator() {
    for subject in subject::modules() {
        emulator::run(subject, &corpus::files(subject.name)).finish();
    }
}
