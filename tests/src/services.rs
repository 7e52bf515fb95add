//! Where the real servers of the tests are: in the environment, else in what `cargo xtask services up` noted. A test
//! that needs one and does not find it fails, saying so. Also compiled into the host's own tests; knows nothing else.

use std::path::PathBuf;

/// An S3 server and who may use it.
#[derive(Debug, Clone)]
pub struct S3 {
    pub endpoint: String,
    pub access_key: String,
    pub secret_key: String,
}

/// URL of a PostgreSQL whose user may create databases.
pub fn postgres() -> String {
    variable("CARRYALL_TEST_POSTGRES_URL")
}

/// Address of a Kafka broker.
pub fn kafka() -> String {
    variable("CARRYALL_TEST_KAFKA")
}

pub fn s3() -> S3 {
    S3 {
        endpoint: variable("CARRYALL_TEST_S3_ENDPOINT"),
        access_key: variable("CARRYALL_TEST_S3_ACCESS_KEY"),
        secret_key: variable("CARRYALL_TEST_S3_SECRET_KEY"),
    }
}

fn variable(name: &str) -> String {
    if let Ok(value) = std::env::var(name) {
        return value;
    }
    let noted = std::fs::read_to_string(env_file()).unwrap_or_default();
    let value = noted.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    match value {
        Some(value) => value.to_owned(),
        None => panic!("this test needs a real server, and {name} is not set: run `cargo xtask services up`"),
    }
}

/// `target/services/env`, from `target/<profile>/deps/<this test>`.
fn env_file() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.ancestors().nth(3).expect("a test lies in target/<profile>/deps");
    target.join("services/env")
}
