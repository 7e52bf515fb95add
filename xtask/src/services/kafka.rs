//! Kafka in KRaft mode, one node that is broker and controller, put together from its published jars with Maven.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::Place;
use super::process::{has, run};
use crate::steps::say;

const VERSION: &str = "4.4.0";
/// The binding that lets the broker log: the jars do not ask for it.
const LOG_BINDING_VERSION: &str = "2.25.5";
const COPY_PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1";
const HEAP: &str = "512m";

pub fn variables(port: u16) -> Vec<(&'static str, String)> {
    vec![("CARRYALL_TEST_KAFKA", format!("127.0.0.1:{port}"))]
}

fn jars(place: &Place) -> PathBuf {
    place.cache.join(format!("kafka-{VERSION}"))
}

pub fn install(place: &Place) -> anyhow::Result<()> {
    let jars = jars(place);
    if jars.is_dir() && has("java") {
        return Ok(());
    }
    for program in ["java", "mvn"] {
        if !has(program) {
            bail!("Kafka needs Java 17 and Maven; there is no `{program}` (apt: openjdk-17-jre-headless, maven)");
        }
    }
    say("    kafka: fetching its jars with Maven");
    let build = place.cache.join("kafka-build");
    fs::create_dir_all(&build)?;
    fs::write(build.join("pom.xml"), pom())?;
    let fetched = build.join("jars");
    let mut maven = Command::new("mvn");
    maven
        .args(["--batch-mode", "--no-transfer-progress"])
        .arg(format!("-Dmaven.repo.local={}", build.join("repository").display()))
        .arg(format!("{COPY_PLUGIN}:copy-dependencies"))
        .arg("-DincludeScope=runtime")
        .arg(format!("-DoutputDirectory={}", fetched.display()))
        .current_dir(&build);
    run("mvn copy-dependencies", maven, &place.log("install"))?;
    fs::rename(&fetched, &jars).context("keep the jars")?;
    fs::remove_dir_all(&build).context("remove Maven's repository")
}

/// `kafka-tools-api` is named by the published pom and was never published: the broker does without.
fn pom() -> String {
    format!(
        "<project><modelVersion>4.0.0</modelVersion>\n\
         <groupId>carryall</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>\n\
         <dependencies>\n\
         <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>\
         <version>{VERSION}</version><exclusions><exclusion><groupId>org.apache.kafka</groupId>\
         <artifactId>kafka-tools-api</artifactId></exclusion></exclusions></dependency>\n\
         <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>\
         <version>{LOG_BINDING_VERSION}</version></dependency>\n\
         </dependencies></project>\n"
    )
}

/// Formats the data folder when it is new, and gives the command of the server.
pub fn command(place: &Place, port: u16, controller_port: u16) -> anyhow::Result<Command> {
    let logging = place.data.with_extension("log4j2.yaml");
    fs::write(
        &logging,
        "Configuration:\n  Appenders: { Console: { name: out, PatternLayout: { pattern: '[%d] %p %m (%c)%n' } } }\n  \
         Loggers: { Root: { level: INFO, AppenderRef: { ref: out } } }\n",
    )?;
    let settings = place.data.with_extension("properties");
    fs::write(&settings, properties(&place.data, port, controller_port)).context("write the settings of Kafka")?;
    let java = |class: &str| {
        let mut java = Command::new("java");
        java.args([&format!("-Xms{HEAP}"), &format!("-Xmx{HEAP}"), "-Djava.awt.headless=true"])
            .arg(format!("-Dlog4j2.configurationFile={}", logging.display()))
            .arg("-cp")
            .arg(jars(place).join("*"))
            .arg(class);
        java
    };
    if !place.data.join("meta.properties").is_file() {
        let drawn = java("kafka.tools.StorageTool").arg("random-uuid").output().context("start java")?;
        let id = String::from_utf8(drawn.stdout).context("the id of the cluster is no text")?;
        let id = id.lines().last().context("Kafka draws no id for a cluster")?.to_owned();
        let mut format = java("kafka.tools.StorageTool");
        format.args(["format", "--standalone", "--cluster-id", &id, "--config"]).arg(&settings);
        run("format Kafka's folder", format, &place.log("format"))?;
    }
    let mut server = java("kafka.Kafka");
    server.arg(&settings);
    Ok(server)
}

fn properties(data: &Path, port: u16, controller_port: u16) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         log.dirs={}\n\
         auto.create.topics.enable=false\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=4\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n",
        data.display()
    )
}

/// It says so itself, and answers a request of its protocol without an error.
pub fn is_ready(log: &Path, port: u16) -> bool {
    let started = fs::read_to_string(log).is_ok_and(|text| text.contains("Kafka Server started"));
    started && answers(port).unwrap_or(false)
}

/// ApiVersions, version 0: length, key 18, version, correlation 1, no client id. Answered by length, correlation,
/// error 0.
fn answers(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff])?;
    let mut head = [0; 10];
    stream.read_exact(&mut head)?;
    Ok(head[4..] == [0, 0, 0, 1, 0, 0])
}
