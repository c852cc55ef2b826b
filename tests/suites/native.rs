//! The corpus against the engines.

use sailcloth_tests::{corpus, native, subject};

#[test]
fn the_corpus_holds_natively() {
    for subject in subject::modules() {
        native::run(subject, &corpus::files(subject.name)).finish();
    }
}
