-- What was opened and how it ended, for audit; the live sessions are in memory.
CREATE TABLE sessions (
    seq               INTEGER PRIMARY KEY,
    id                TEXT    NOT NULL UNIQUE,
    -- The key that opened it; NULL for the gateway's own.
    owner             TEXT,
    name              TEXT    NOT NULL,
    tag               TEXT    NOT NULL,
    backend           TEXT    NOT NULL,
    opened_unix_ms    INTEGER NOT NULL,
    closed_unix_ms    INTEGER,
    -- As in the metrics: client, lease, detach, kill, fault, shutdown, lost.
    reason            TEXT
) STRICT;
CREATE INDEX sessions_open ON sessions (id) WHERE closed_unix_ms IS NULL;

-- Every attempt to change the policies, with what was in the transports at the flip.
CREATE TABLE swaps (
    seq               INTEGER PRIMARY KEY,
    at_unix_ms        INTEGER NOT NULL,
    generation        INTEGER NOT NULL,
    outcome           TEXT    NOT NULL,
    -- What set it off.
    cause             TEXT    NOT NULL,
    code              TEXT    NOT NULL,
    message           TEXT    NOT NULL,
    gate_us           INTEGER NOT NULL,
    enforced_us       INTEGER,
    digests           TEXT    NOT NULL CHECK (json_valid(digests)),
    fences            TEXT    NOT NULL CHECK (json_valid(fences))
) STRICT;
CREATE INDEX swaps_generation ON swaps (generation);
