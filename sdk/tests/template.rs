//! What `carryall handlers new` writes compiles, and its own tests pass: they run here, placeholders and all.

#[path = "../template/src/lib.rs"]
mod handler;

/// The placeholders that whoever writes the template out replaces.
const PLACEHOLDERS: [&str; 3] = ["{{name}}", "{{kind}}", "{{sdk}}"];

#[test]
fn the_template_has_no_other_placeholders() {
    let files = [
        include_str!("../template/Cargo.toml"),
        include_str!("../template/src/lib.rs"),
        include_str!("../template/src/tests.rs"),
    ];
    for file in files {
        let rest = PLACEHOLDERS.iter().fold(file.to_owned(), |text, placeholder| text.replace(placeholder, "x"));
        assert!(!rest.contains("{{") && !rest.contains("}}"), "{rest}");
    }
}
