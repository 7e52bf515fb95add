-- Everything here is derived from the event log and can be deleted: it is rebuilt. Tables of the schema
-- `spice_event_registry`, which the connection's search path names.
-- Names and ids compare by bytes (`COLLATE "C"`), so that lists come in the same order from every back end.

-- The store (`meta/store.json`) that this database was derived from.
CREATE TABLE store (
    one integer PRIMARY KEY CHECK (one = 1),
    store_id uuid NOT NULL
);

-- The last run of each process, by name. Outlives a rebuild, so that run numbers only grow.
CREATE TABLE owner_runs (
    owner text COLLATE "C" PRIMARY KEY,
    run bigint NOT NULL
);

-- A statement that must stop its transaction inserts a row here, which the named check refuses: always empty.
CREATE TABLE guard (
    missing_claims integer CONSTRAINT claims_are_ours CHECK (missing_claims IS NULL),
    missing_build integer CONSTRAINT build_is_kept CHECK (missing_build IS NULL)
);

CREATE TABLE log_watermarks (
    partition integer PRIMARY KEY,
    segments bigint NOT NULL,
    next_position bigint NOT NULL,
    digest bytea NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE log_segments (
    partition integer NOT NULL,
    first_position bigint NOT NULL,
    segment bigint NOT NULL,
    digest bytea NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (partition, first_position, segment)
);

-- `stream` is the first 8 bytes of SHA-256(`type/id`): a compact key that readers check against the full names.
CREATE TABLE log_events (
    partition integer NOT NULL,
    position bigint NOT NULL,
    event_id uuid NOT NULL,
    stream bigint NOT NULL,
    sequence_number bigint NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    segment bigint NOT NULL,
    is_command boolean NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    command_id uuid,
    fingerprint bytea,
    PRIMARY KEY (partition, position)
);
CREATE INDEX log_events_by_id ON log_events (event_id);
CREATE INDEX log_events_by_stream ON log_events (stream, sequence_number);

-- No index but the key, and room in each page: ending a claim then writes its row and nothing else.
CREATE TABLE processed_events (
    handler text COLLATE "C" NOT NULL,
    event_id uuid NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    sequence_number bigint NOT NULL,
    status text NOT NULL CHECK (status IN ('processing', 'done', 'failed', 'skipped_stale', 'parked')),
    started_at timestamptz,
    owner text COLLATE "C",
    heartbeat_at timestamptz,
    processed_at timestamptz,
    attempt_count integer NOT NULL,
    last_error text,
    PRIMARY KEY (handler, event_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- A consumer's last sequence per aggregate, and (handler `write_side:{aggregate_type}`) the heads of the streams.
CREATE TABLE aggregate_versions (
    handler text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    last_sequence bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    last_command bigint,
    last_domain bigint,
    last_foreign bigint,
    PRIMARY KEY (handler, aggregate_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE consumer_checkpoints (
    consumer text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (consumer, partition)
) WITH (fillfactor = 50);

CREATE TABLE dead_letters (
    id uuid PRIMARY KEY,
    handler text COLLATE "C" NOT NULL,
    event_id uuid,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    sequence_number bigint NOT NULL,
    reason text NOT NULL,
    error text NOT NULL,
    parked_at timestamptz NOT NULL,
    state text NOT NULL,
    coordinates text,
    operation bigint NOT NULL
);

-- The builds of projections (decision 0011): `building`, `taking`, `live` or `dropping`. The rows of one carry its name.
CREATE TABLE projection_builds (
    name text COLLATE "C" PRIMARY KEY,
    handler text COLLATE "C" NOT NULL,
    state text NOT NULL CHECK (state IN ('building', 'taking', 'live', 'dropping')),
    asked bigint NOT NULL,
    id uuid NOT NULL
);
CREATE UNIQUE INDEX projection_builds_live ON projection_builds (handler) WHERE state = 'live';
CREATE UNIQUE INDEX projection_builds_under_way ON projection_builds (handler) WHERE state IN ('building', 'taking');

-- The build of each collection that readers see.
CREATE TABLE live_collections (
    collection text COLLATE "C" PRIMARY KEY,
    build text COLLATE "C" NOT NULL
);

-- A removed document stays as a row without body, so that an older write that comes late does not bring it back.
-- `json`, which keeps a text to the byte. `terms`: the words of its texts, and its numbers.
CREATE TABLE documents (
    build text COLLATE "C" NOT NULL,
    collection text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    owner_type text COLLATE "C" NOT NULL,
    owner_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    terms text[] COLLATE "C",
    body json,
    PRIMARY KEY (build, collection, id)
);
CREATE INDEX documents_by_term ON documents USING gin (terms);

CREATE TABLE graph_nodes (
    build text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    owner_type text COLLATE "C" NOT NULL,
    owner_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    present boolean NOT NULL,
    PRIMARY KEY (build, kind, id)
);

-- Who owns the edges of one predicate from one source, also when there is none.
CREATE TABLE graph_edge_sets (
    build text COLLATE "C" NOT NULL,
    source_kind text COLLATE "C" NOT NULL,
    source_id text COLLATE "C" NOT NULL,
    predicate text COLLATE "C" NOT NULL,
    owner_type text COLLATE "C" NOT NULL,
    owner_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (build, source_kind, source_id, predicate)
);

CREATE TABLE graph_edges (
    build text COLLATE "C" NOT NULL,
    source_kind text COLLATE "C" NOT NULL,
    source_id text COLLATE "C" NOT NULL,
    predicate text COLLATE "C" NOT NULL,
    target_kind text COLLATE "C" NOT NULL,
    target_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (build, source_kind, source_id, predicate, target_kind, target_id)
);
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
)
SELECT c.event_id,
       CASE WHEN c.event_type LIKE '%\_REQUESTED' THEN left(c.event_type, -10) ELSE c.event_type END,
       c.aggregate_type, c.aggregate_id, c.sequence_number,
       CASE WHEN o.event_type = 'COMMAND_FAILED' THEN 'FAILED'
            WHEN o.event_type IS NOT NULL THEN 'COMPLETED'
            WHEN p.status = 'processing' THEN 'PROCESSING'
            WHEN p.status IN ('failed', 'parked') THEN 'RETRYING'
            ELSE 'PENDING' END,
       coalesce(p.attempt_count, 0), p.last_error
  FROM log_events c
  LEFT JOIN LATERAL (
       SELECT o.event_type FROM log_events o
        WHERE o.stream = c.stream AND o.sequence_number > c.sequence_number AND o.command_id = c.event_id
        ORDER BY o.sequence_number LIMIT 1) o ON true
  LEFT JOIN LATERAL (
       SELECT p.status, p.attempt_count, p.last_error FROM handlers h
         JOIN processed_events p ON p.handler = h.name AND p.event_id = c.event_id LIMIT 1) p ON true
 WHERE c.is_command;
