//! A build.spec, and one laid over it.
#![no_main]

use headnode::spec::Spec;
use headnode::spec::check::fit;
use headnode::spec::merge::Merged;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str)| {
    let files = [("build.spec", texts.0), ("build.spec.local", texts.1)];
    let Ok(merged) = Merged::of_texts(files) else { return };
    // What has the right form must be taken by the types.
    if merged.problems.is_empty() {
        let spec = Spec::of(&merged).expect("the tables are stricter than the types");
        for problem in fit(&spec, &merged) {
            assert!(!problem.to_string().is_empty());
        }
        let _ = spec.features(&|_| None);
    }
});
