-- Everything here is derived from the event log and can be deleted: it is rebuilt.
-- Times are milliseconds since 1970 (`datetime(started_at / 1000, 'unixepoch')` shows one). Ids of events are 16-byte
-- blobs in the log's index, where each byte counts, and readable text in the registry.

-- The store (`meta/store.json`) that this database was derived from.
CREATE TABLE store (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    store_id TEXT NOT NULL
);

-- A statement that must stop its transaction inserts a row here, which the named check refuses: always empty.
CREATE TABLE guard (
    missing_claims INTEGER CONSTRAINT claims_are_ours CHECK (missing_claims IS NULL),
    missing_build INTEGER CONSTRAINT build_is_kept CHECK (missing_build IS NULL),
    missing_watermark INTEGER CONSTRAINT watermark_is_expected CHECK (missing_watermark IS NULL)
);

CREATE TABLE log_watermarks (
    partition INTEGER PRIMARY KEY,
    segments INTEGER NOT NULL,
    next_position INTEGER NOT NULL,
    digest BLOB NOT NULL
);

CREATE TABLE log_segments (
    partition INTEGER NOT NULL,
    first_position INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    digest BLOB NOT NULL,
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (partition, first_position, segment)
) WITHOUT ROWID;

-- `place` is partition * 2^44 + position: rows arrive in key order. `stream` is the place of the aggregate's first event,
-- kept with its head, so that streams which began together are neighbours. `is_derived`: the id of a domain event is
-- derived, hence random, and asked for rarely: it is found by age, in the neighbourhood of its time (decision 0025).
CREATE TABLE log_events (
    place INTEGER PRIMARY KEY,
    event_id BLOB NOT NULL,
    is_derived INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    sequence_number INTEGER NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    segment INTEGER NOT NULL,
    is_command INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    command_id BLOB,
    fingerprint BLOB
);
CREATE INDEX log_events_by_id ON log_events (event_id) WHERE is_derived = 0;
CREATE INDEX log_events_by_age_and_id ON log_events (place >> 19, event_id) WHERE is_derived = 1;
CREATE INDEX log_events_by_stream ON log_events (stream, sequence_number);

-- A claim gets its row when it has ended: the host keeps those that are open in memory (decision 0009).
CREATE TABLE processed_events (
    handler TEXT NOT NULL,
    event_id TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    sequence_number INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('processing', 'done', 'failed', 'skipped_stale', 'parked')),
    started_at INTEGER,
    owner TEXT,
    heartbeat_at INTEGER,
    processed_at INTEGER,
    attempt_count INTEGER NOT NULL,
    last_error TEXT,
    PRIMARY KEY (handler, event_id)
);
CREATE INDEX processed_events_unfinished
    ON processed_events (handler) WHERE status IN ('processing', 'failed', 'parked');

-- A consumer's last sequence per aggregate, and (handler `write_side:{aggregate_type}`) the heads of the streams: those
-- have values in the last columns.
CREATE TABLE aggregate_versions (
    handler TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    last_sequence INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_command INTEGER,
    last_domain INTEGER,
    last_foreign INTEGER,
    stream INTEGER,
    PRIMARY KEY (handler, aggregate_id)
) WITHOUT ROWID;

CREATE TABLE consumer_checkpoints (
    consumer TEXT NOT NULL,
    partition INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (consumer, partition)
) WITHOUT ROWID;

CREATE TABLE dead_letters (
    id TEXT PRIMARY KEY,
    handler TEXT NOT NULL,
    event_id TEXT,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    sequence_number INTEGER NOT NULL,
    reason TEXT NOT NULL,
    error TEXT NOT NULL,
    parked_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    coordinates TEXT,
    operation INTEGER NOT NULL
) WITHOUT ROWID;

-- The builds of projections (decision 0011): `building`, `taking`, `live` or `dropping`. The rows of one carry its name.
CREATE TABLE projection_builds (
    name TEXT PRIMARY KEY,
    handler TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('building', 'taking', 'live', 'dropping')),
    asked INTEGER NOT NULL,
    id TEXT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX projection_builds_live ON projection_builds (handler) WHERE state = 'live';
CREATE UNIQUE INDEX projection_builds_under_way ON projection_builds (handler) WHERE state IN ('building', 'taking');

-- The build of each collection that readers see.
CREATE TABLE live_collections (
    collection TEXT PRIMARY KEY,
    build TEXT NOT NULL
) WITHOUT ROWID;

-- A removed document stays as a row without body, so that an older write that comes late does not bring it back.
CREATE TABLE documents (
    number INTEGER PRIMARY KEY,
    build TEXT NOT NULL,
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    owner_type TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    text_is_stale INTEGER NOT NULL,
    body TEXT
);
CREATE UNIQUE INDEX documents_by_key ON documents (build, collection, id);
CREATE INDEX documents_with_stale_text ON documents (number) WHERE text_is_stale = 1;

-- Full text, brought up to date before it is asked: `scope` is one token that names build and collection.
CREATE VIRTUAL TABLE documents_text USING fts5 (
    scope, words, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 0'
);

CREATE TABLE graph_nodes (
    build TEXT NOT NULL,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    owner_type TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    present INTEGER NOT NULL,
    PRIMARY KEY (build, kind, id)
) WITHOUT ROWID;

-- Who owns the edges of one predicate from one source, also when there is none.
CREATE TABLE graph_edge_sets (
    build TEXT NOT NULL,
    source_kind TEXT NOT NULL,
    source_id TEXT NOT NULL,
    predicate TEXT NOT NULL,
    owner_type TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (build, source_kind, source_id, predicate)
) WITHOUT ROWID;

CREATE TABLE graph_edges (
    build TEXT NOT NULL,
    source_kind TEXT NOT NULL,
    source_id TEXT NOT NULL,
    predicate TEXT NOT NULL,
    target_kind TEXT NOT NULL,
    target_id TEXT NOT NULL,
    PRIMARY KEY (build, source_kind, source_id, predicate, target_kind, target_id)
) WITHOUT ROWID;
CREATE INDEX graph_edges_by_target
    ON graph_edges (build, target_kind, target_id, source_kind, source_id, predicate);

-- For operators. What only the log's bodies tell is not here: CANCELLED shows as FAILED, and a batch as soon as its
-- own outcome exists.
CREATE VIEW command_status (command_id, command_type, aggregate_type, aggregate_id, sequence_number, status,
                            attempt_count, last_error) AS
WITH RECURSIVE handlers (name) AS (
    SELECT min(handler) FROM processed_events
    UNION ALL
    SELECT (SELECT min(handler) FROM processed_events WHERE handler > name) FROM handlers WHERE name IS NOT NULL
),
commands AS (
    SELECT lower(substr(hex(event_id), 1, 8) || '-' || substr(hex(event_id), 9, 4) || '-'
                 || substr(hex(event_id), 13, 4) || '-' || substr(hex(event_id), 17, 4) || '-'
                 || substr(hex(event_id), 21)) AS command_id,
           event_id, event_type, aggregate_type, aggregate_id, sequence_number,
           (SELECT o.event_type FROM log_events o
             WHERE o.stream = c.stream AND o.sequence_number > c.sequence_number AND o.command_id = c.event_id
             ORDER BY o.sequence_number LIMIT 1) AS outcome
      FROM log_events c
     WHERE is_command = 1
)
SELECT c.command_id,
       CASE WHEN c.event_type LIKE '%\_REQUESTED' ESCAPE '\'
            THEN substr(c.event_type, 1, length(c.event_type) - 10) ELSE c.event_type END,
       c.aggregate_type, c.aggregate_id, c.sequence_number,
       CASE WHEN c.outcome = 'COMMAND_FAILED' THEN 'FAILED'
            WHEN c.outcome IS NOT NULL THEN 'COMPLETED'
            WHEN p.status = 'processing' THEN 'PROCESSING'
            WHEN p.status IN ('failed', 'parked') THEN 'RETRYING'
            ELSE 'PENDING' END,
       coalesce(p.attempt_count, 0), p.last_error
  FROM commands c
  LEFT JOIN processed_events p
    ON p.handler IN (SELECT name FROM handlers WHERE name IS NOT NULL) AND p.event_id = c.command_id;
