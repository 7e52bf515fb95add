//! `compose.yaml` offers what `cargo xtask services` starts: the same servers in the same versions, with the same keys,
//! on loopback only. (Nobody can run it where there is no Docker.)

use super::{none, root};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The value of a constant in a source of xtask.
fn constant(file: &str, name: &str) -> String {
    let text = read(&format!("xtask/src/services/{file}.rs"));
    let line = text.lines().find(|line| line.contains(&format!("const {name}: "))).unwrap();
    line.split(" = ").nth(1).unwrap().trim_matches(|c| c == '"' || c == ';').to_owned()
}

/// The lines of a service, by its name.
fn service<'a>(compose: &'a str, name: &str) -> Vec<&'a str> {
    let begin = compose.find(&format!("\n  {name}:\n")).unwrap_or_else(|| panic!("no service {name}"));
    let lines = compose[begin..].lines().skip(2);
    lines.take_while(|line| line.is_empty() || line.starts_with("    ")).map(str::trim).collect()
}

#[test]
fn compose_starts_the_servers_of_xtask_on_loopback() {
    let compose = read("compose.yaml");
    let mut found = Vec::new();
    let mut want = |name: &str, line: String| {
        if !service(&compose, name).contains(&line.as_str()) {
            found.push(format!("{name} lacks `{line}`"));
        }
    };
    want("postgres", format!("image: postgres:{}", constant("postgres", "MAJOR_MIN")));
    want("postgres", format!("POSTGRES_PASSWORD: {}", constant("postgres", "PASSWORD")));
    want("minio", format!("MINIO_ROOT_USER: {}", constant("minio", "ACCESS_KEY")));
    want("minio", format!("MINIO_ROOT_PASSWORD: {}", constant("minio", "SECRET_KEY")));
    want("kafka", format!("image: apache/kafka:{}", constant("kafka", "VERSION")));
    for name in ["postgres", "minio", "kafka"] {
        want(name, "healthcheck:".into());
    }
    // What the settings of Kafka say twice must be one.
    for setting in read("xtask/src/services/kafka.rs").lines().filter_map(|line| line.trim().strip_suffix("\\n\\")) {
        let Some((key, value)) = setting.split_once('=') else { continue };
        if key.ends_with("replication.factor") || key.ends_with("min.isr") || key == "auto.create.topics.enable" {
            let value = if value == "false" { "\"false\"" } else { value };
            want("kafka", format!("KAFKA_{}: {value}", key.replace('.', "_").to_uppercase()));
        }
    }
    let ports = compose.lines().filter(|line| line.trim().starts_with("ports:"));
    found.extend(ports.filter(|line| !line.contains("[\"127.0.0.1:")).map(|line| format!("beyond loopback: {line}")));
    let images = compose.lines().filter(|line| line.trim().starts_with("image:"));
    found.extend(images.filter(|line| line.ends_with(":latest")).map(|line| format!("no version: {line}")));
    none("compose.yaml is not what xtask starts", &found);
}
