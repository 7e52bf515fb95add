//! From the text of the wire to typed calls and back. The guest and the test harness both go through here, so
//! what a unit test sees is what the host will see.

use crate::{
    Aggregate, Change, Command, Context, Decision, Description, DocKey, Document, Documents, Fault, InstanceHandler,
    Message, NewEvent, Outcome, Problem, ProjectionHandler, ReadValue, Reads, Received, Recorded, RecordedEvent,
    UpcasterHandler, Verdict, json, memo::Memo,
};
use std::rc::Rc;

// An instance has one thread and serves one command, or one batch.
thread_local! {
    static COMMAND: Memo<Command> = const { Memo::new() };
    static STATE: Memo<String> = const { Memo::new() };
    static EVENTS: Memo<Vec<RecordedEvent>> = const { Memo::new() };
}

pub(crate) fn describe<H: InstanceHandler>() -> Description {
    H::manifest().accepting::<H::Command>().emitting::<H::Event>().folding::<H::Event>().describe()
}

pub(crate) fn describe_projection<H: ProjectionHandler>() -> Description {
    H::manifest().folding::<H::Event>().describe()
}

pub(crate) fn describe_upcaster<H: UpcasterHandler>() -> Description {
    H::manifest().upcasting(&H::understands(), &H::makes()).describe()
}

pub(crate) fn needs<H: InstanceHandler>(
    command: Command,
    state: Option<&str>,
    have: Vec<ReadValue>,
) -> Result<Vec<Aggregate>, Fault> {
    match &*receive::<H::Command>(command)? {
        Ok(command) => H::needs(command, remembered_state::<H>(state)?.as_deref(), &Reads::new(have)),
        // `decide` will refuse it; nothing has to be read for that.
        Err(_) => Ok(Vec::new()),
    }
}

pub(crate) fn decide<H: InstanceHandler>(
    context: &Context,
    state: Option<&str>,
    command: Command,
) -> Result<Verdict, Fault> {
    let received = receive::<H::Command>(command)?;
    let command = match &*received {
        Ok(command) => command,
        Err(problem) => return Ok(Verdict::Rejected(vec![problem.clone()])),
    };
    Ok(match H::decide(context, remembered_state::<H>(state)?.as_deref(), command)? {
        Decision::Accepted { events, commands } => {
            let events = events.iter().map(new_event).collect::<Result<_, _>>()?;
            Verdict::Accepted(Outcome { events, commands })
        }
        Decision::Unchanged => Verdict::Unchanged,
        Decision::Rejected(problems) => Verdict::Rejected(problems),
    })
}

pub(crate) fn evolve<H: InstanceHandler>(
    state: Option<&str>,
    events: Vec<RecordedEvent>,
) -> Result<Option<String>, Fault> {
    let mut state = state.map(read_state::<H>).transpose()?;
    for event in &events {
        state = H::evolve(state, recorded(event)?)?;
    }
    state.as_ref().map(json::write).transpose()
}

pub(crate) fn projection_needs<H: ProjectionHandler>(events: Vec<RecordedEvent>) -> Result<Vec<DocKey>, Fault> {
    let mut keys = Vec::new();
    for event in remembered_events(events)?.iter() {
        keys.extend(H::needs(event)?);
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

pub(crate) fn project<H: ProjectionHandler>(
    events: Vec<RecordedEvent>,
    documents: Vec<Document>,
) -> Result<Vec<Change>, Fault> {
    let mut documents = Documents::new(documents);
    let mut changes = Vec::with_capacity(events.len());
    for (cause, event) in (0u32..).zip(remembered_events(events)?.iter()) {
        for write in H::project(event, &documents)? {
            documents.apply(&write);
            changes.push(Change { cause, write });
        }
    }
    Ok(changes)
}

fn read_state<H: InstanceHandler>(state: &str) -> Result<H::State, Fault> {
    json::read("state", state)
}

fn remembered_state<H: InstanceHandler>(state: Option<&str>) -> Result<Option<Rc<H::State>>, Fault> {
    let read = |state: &str| STATE.with(|memo| memo.get(state.to_owned(), |state| read_state::<H>(state)));
    state.map(read).transpose()
}

/// The outer error: this handler does not accept the command. The inner: its payload is of another shape.
fn receive<C: Message + 'static>(command: Command) -> Result<Rc<Result<Received<C>, Problem>>, Fault> {
    COMMAND.with(|memo| memo.get(command, received))
}

fn received<C: Message>(command: &Command) -> Result<Result<Received<C>, Problem>, Fault> {
    let Some(parsed) = C::parse(&command.name, None, &command.payload) else {
        return Err(Fault::new("unknown-command", format!("{} is not accepted here", command.name)));
    };
    Ok(match parsed {
        Ok(body) => Ok(Received {
            id: command.id.clone(),
            target: command.target.clone(),
            expected_seq: command.expected_seq,
            actor: command.actor.clone(),
            headers: command.headers.clone(),
            body,
        }),
        Err(message) => Err(Problem::new("invalid-payload", message)),
    })
}

fn remembered_events<E: Message + 'static>(events: Vec<RecordedEvent>) -> Result<Rc<Vec<Recorded<E>>>, Fault> {
    EVENTS.with(|memo| memo.get(events, |events| events.iter().map(recorded).collect()))
}

pub(crate) fn recorded<E: Message>(event: &RecordedEvent) -> Result<Recorded<E>, Fault> {
    let RecordedEvent { id, name, schema_version, source, seq, at, data, headers } = event;
    match E::parse(name, Some(schema_version), data) {
        Some(Ok(body)) => {
            Ok(Recorded { id: id.clone(), source: source.clone(), seq: *seq, at: *at, headers: headers.clone(), body })
        }
        Some(Err(message)) => Err(Fault::new("unreadable-event", format!("{name} {schema_version}: {message}"))),
        None => Err(Fault::new("unknown-event", format!("{name} {schema_version} is not understood here"))),
    }
}

fn new_event<E: Message>(event: &E) -> Result<NewEvent, Fault> {
    Ok(NewEvent {
        name: event.name().into(),
        schema_version: event.schema_version().into(),
        data: event.to_json()?,
        headers: Vec::new(),
    })
}
