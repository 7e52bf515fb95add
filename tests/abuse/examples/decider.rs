//! An instance handler that misbehaves on demand: the name of the command says how.
#![cfg(target_family = "wasm")]

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use carryall::handler::types::{Header, NewCommand, NewEvent, Outcome, Problem};
use exports::carryall::handler::{instance, manifest};
use instance::{Aggregate, Command, Context, Fault, ReadValue, RecordedEvent, Verdict};

wit_bindgen::generate!({
    inline: "
        package abuse:decider;
        world decider {
            include carryall:handler/instance-handler@0.1.0;
            import wasi:random/random@0.2.0;
        }
    ",
    path: ["../../wit/0.1", "wit/random"],
    world: "abuse:decider/decider",
    generate_all,
});

struct Decider;
export!(Decider);

/// Counts the calls into this instance: must begin anew for every command.
static CALLS: AtomicU32 = AtomicU32::new(0);

impl manifest::Guest for Decider {
    fn describe() -> manifest::Description {
        let contract =
            |name: &str| manifest::Contract { name: name.into(), versions: vec!["1.0.0".into()], json_schema: None };
        manifest::Description {
            name: "abuse".into(),
            version: "0.1.0".into(),
            kinds: vec!["Thing".into()],
            commands: vec![contract("ECHO"), contract("DEPOSIT")],
            emits: vec![contract("NOTED"), contract("DEPOSITED")],
            folds: vec![contract("NOTED"), contract("DEPOSITED")],
            state: Some(contract("Thing")),
            reads: Vec::new(),
            ordering: "aggregate".into(),
            collections: Vec::new(),
            labels: Vec::new(),
        }
    }
}

impl instance::Guest for Decider {
    fn needs(cmd: Command, _state: Option<String>, have: Vec<ReadValue>) -> Result<Vec<Aggregate>, Fault> {
        CALLS.fetch_add(1, Ordering::Relaxed);
        let thing = |index: u32| Aggregate { kind: "Thing".into(), id: format!("t-{index}") };
        Ok(match cmd.name.as_str() {
            "READ_ONE" if have.is_empty() => vec![thing(1)],
            "READ_ACCOUNT" => vec![Aggregate { kind: "Account".into(), id: "a".into() }],
            "READ_ON" => vec![thing(u32::try_from(have.len()).unwrap_or(u32::MAX))],
            "READ_MANY" => (0..1_000).map(thing).collect(),
            "READ_RUBBISH" => vec![Aggregate { kind: "no kind".into(), id: "x".into() }],
            "PANIC_IN_NEEDS" => panic!("needs nothing"),
            _ => Vec::new(),
        })
    }

    fn decide(ctx: Context, state: Option<String>, cmd: Command) -> Result<Verdict, Fault> {
        let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        match cmd.name.as_str() {
            "ECHO" => noted(&cmd.payload),
            "DEPOSIT" => match carryall_abuse::decide(state.as_deref(), &cmd.payload) {
                Ok(data) => accepted(vec![event("DEPOSITED", data)]),
                Err(code) => Ok(Verdict::Rejected(vec![problem(&code)])),
            },
            "COUNT_CALLS" => noted(&calls.to_string()),
            "SEE_READS" | "READ_ACCOUNT" => noted(
                &format!("{:?}", ctx.reads.first().and_then(|read| read.state.clone()))
                    .replace("None", "null")
                    .replace("Some(", "")
                    .replace(')', ""),
            ),
            "PROBE" => noted(&probe(&ctx)),
            "LOOP" => spin(),
            "EAT_MEMORY" => eat(),
            "GROW_MEMORY" => loop {
                core::arch::wasm32::memory_grow::<0>(16);
            },
            "RECURSE" => noted(&recurse(1, &cmd.payload).to_string()),
            "PANIC" => panic!("this handler gives up"),
            "EXIT" => std::process::exit(0),
            "ABORT" => std::process::abort(),
            "BYTES" => noted(&format!("\"{}\"", "x".repeat(number(&cmd.payload)))),
            "EVENTS" => accepted((0..number(&cmd.payload)).map(|_| event("NOTED", "1".into())).collect()),
            "COMMANDS" => Ok(Verdict::Accepted(Outcome {
                events: Vec::new(),
                commands: (0..number(&cmd.payload)).map(|index| command(index, "{}")).collect(),
            })),
            "COMMAND_FOR" => {
                let target = Aggregate { kind: cmd.payload.trim_matches('"').into(), id: "x".into() };
                let commands = vec![NewCommand { target, ..command(0, "{}") }];
                Ok(Verdict::Accepted(Outcome { events: Vec::new(), commands }))
            }
            "RUBBISH_COMMAND" => Ok(Verdict::Accepted(Outcome { events: Vec::new(), commands: vec![command(0, "{")] })),
            "RUBBISH" => noted("{oops"),
            "DEEP" => noted(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
            "UNDECLARED" => accepted(vec![event("SURPRISE", "1".into())]),
            "FORGE" => accepted(vec![event("COMMAND_FAILED", "{}".into())]),
            "NOTHING" => accepted(Vec::new()),
            "UNCHANGED" => Ok(Verdict::Unchanged),
            "REJECT" => Ok(Verdict::Rejected((0..number(&cmd.payload)).map(|_| problem("no")).collect())),
            "FAULT" => Err(Fault { code: "corrupt-state".into(), message: "cannot go on".into() }),
            "HEADERS" => {
                let mut noted = event("NOTED", "1".into());
                noted.headers = vec![Header { name: "n".into(), value: "v".into() }; number(&cmd.payload)];
                accepted(vec![noted])
            }
            // A text that lies wherever the payload says, `address,length`: nothing here reads it.
            "FORGED_TEXT" => {
                let (address, length) = place(&cmd.payload)?;
                // SAFETY: there is none; that is what the host has to bear.
                noted_owned(unsafe { String::from_raw_parts(address as *mut u8, length, length) })
            }
            "CHATTER" => {
                for _ in 0..number(&cmd.payload) {
                    println!("{}", "chatter ".repeat(128));
                }
                noted("1")
            }
            "SLEEP" => {
                std::thread::sleep(Duration::from_secs(3_600));
                noted("1")
            }
            other => Err(Fault { code: "unknown-command".into(), message: other.into() }),
        }
    }

    fn evolve(state: Option<String>, events: Vec<RecordedEvent>) -> Result<Option<String>, Fault> {
        CALLS.fetch_add(1, Ordering::Relaxed);
        match events.first().map(|event| event.name.as_str()) {
            Some("LOOP") => spin(),
            Some("RUBBISH") => return Ok(Some("rubbish".into())),
            Some("FORGET") => return Ok(None),
            Some("COUNT_CALLS") => return Ok(Some(CALLS.load(Ordering::Relaxed).to_string())),
            _ => {}
        }
        carryall_abuse::evolve(state.as_deref(), events.iter().map(|event| event.data.as_str()))
            .map(Some)
            .map_err(|message| Fault { code: "corrupt".into(), message })
    }
}

fn event(name: &str, data: String) -> NewEvent {
    NewEvent { name: name.into(), schema_version: "1.0.0".into(), data, headers: Vec::new() }
}

fn command(index: usize, payload: &str) -> NewCommand {
    NewCommand {
        name: "ECHO".into(),
        target: Aggregate { kind: "Thing".into(), id: format!("t-{index}") },
        expected_seq: None,
        payload: payload.into(),
        headers: Vec::new(),
    }
}

fn problem(code: &str) -> Problem {
    Problem { code: code.into(), message: "refused".into(), pointer: None }
}

fn accepted(events: Vec<NewEvent>) -> Result<Verdict, Fault> {
    Ok(Verdict::Accepted(Outcome { events, commands: Vec::new() }))
}

fn noted(data: &str) -> Result<Verdict, Fault> {
    accepted(vec![event("NOTED", data.into())])
}

fn noted_owned(data: String) -> Result<Verdict, Fault> {
    accepted(vec![NewEvent { name: "NOTED".into(), schema_version: "1.0.0".into(), data, headers: Vec::new() }])
}

fn place(payload: &str) -> Result<(usize, usize), Fault> {
    let read = || {
        let (address, length) = payload.split_once(',')?;
        Some((address.parse::<u32>().ok()? as usize, length.parse::<u32>().ok()? as usize))
    };
    read().ok_or_else(|| Fault { code: "no-place".into(), message: payload.into() })
}

fn number(payload: &str) -> usize {
    payload.parse().expect("the payload is a number")
}

fn spin() -> ! {
    let mut x = 1u64;
    loop {
        x = std::hint::black_box(x.wrapping_mul(31));
    }
}

fn eat() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64, text: &str) -> u64 {
    let own = std::hint::black_box([depth; 16]);
    recurse(depth + 1, text) + own[3] + text.len() as u64
}

/// Everything that could differ between two runs.
fn probe(ctx: &Context) -> String {
    let mut map = HashMap::new();
    for index in 0..50 {
        map.insert(index, ());
    }
    let order: Vec<i32> = map.keys().copied().collect();
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let begun = Instant::now();
    let waited = begun.elapsed();
    let random: Vec<u64> = (0..3).map(|_| wasi::random::random::get_random_u64()).collect();
    serde_json::json!({
        "now": [ctx.now.seconds, u64::from(ctx.now.nanoseconds)],
        "clock": [since_epoch.as_secs(), u64::from(since_epoch.subsec_nanos())],
        "time_passes": waited > Duration::ZERO,
        "order": order,
        "hash": RandomState::new().build_hasher().finish().to_string(),
        "address": format!("{:p}", Box::into_raw(Box::new(1u8))),
        "random": random.iter().map(u64::to_string).collect::<Vec<_>>(),
        "bytes": wasi::random::random::get_random_bytes(11),
        "variables": std::env::vars().count(),
        "arguments": std::env::args().count(),
        "thread": std::thread::Builder::new().spawn(|| ()).is_ok(),
        "file": std::fs::read("/etc/hostname").is_ok(),
        "folder": std::fs::read_dir("/").is_ok(),
        "input": std::io::stdin().lines().count(),
        "nan": (f64::NAN + std::hint::black_box(0.0)).to_bits().to_string(),
    })
    .to_string()
}
