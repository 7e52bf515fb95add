//! The form of files.

use super::{none, root, rust_files, sources};

/// A file that is longer is no longer held in a reader's head.
const LINES_MAX: usize = 600;
const LINE_CHARS_MAX: usize = 120;

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> = rust_files()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| path.display().to_string())
        .collect();
    none("files that do not begin with a //! line", &silent);
}

#[test]
fn files_and_lines_are_short() {
    let mut long = Vec::new();
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            long.push(format!("{}: {lines} lines of at most {LINES_MAX}", path.display()));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_CHARS_MAX {
                long.push(format!("{}:{}: over {LINE_CHARS_MAX} characters", path.display(), number + 1));
            }
        }
    }
    none("too long", &long);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let marks: Vec<String> = [("TO", "DO"), ("FIX", "ME"), ("todo", "!("), ("unimplemented", "!(")]
        .iter()
        .map(|(head, tail)| format!("{head}{tail}"))
        .chain([format!("#[{}", "ignore")])
        .collect();
    let mut found = Vec::new();
    for (path, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(mark.as_str())) {
                found.push(format!("{}:{}: {mark}", path.display(), number + 1));
            }
        }
    }
    none("left for later", &found);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let homes: Vec<String> = ["work", "root", "home"].iter().map(|folder| format!("/{folder}/")).collect();
    let mut found = Vec::new();
    for path in sources() {
        let generated = path.ends_with("Cargo.lock");
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate().filter(|_| !generated) {
            for home in &homes {
                let starts_a_path = line.match_indices(home.as_str()).any(|(at, _)| {
                    !line[..at]
                        .ends_with(|before: char| before.is_alphanumeric() || matches!(before, '.' | '}' | '-' | '_'))
                });
                if starts_a_path {
                    found.push(format!("{}:{}: {home}", path.display(), number + 1));
                }
            }
        }
    }
    none("paths of one machine", &found);
}
