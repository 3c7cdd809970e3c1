-- Workers that live: what a gateway needs to take back those that its predecessor left behind, and to end the others.
-- A row is written before the session is answered and goes when the process is known to be gone.
CREATE TABLE workers (
    session            TEXT    NOT NULL PRIMARY KEY,
    pid                INTEGER NOT NULL,
    -- Boot and start time of the process: a pid alone is reused.
    started            TEXT    NOT NULL,
    -- What gateway and worker prove to each other. The file is 0600; deleted rows are overwritten.
    secret             TEXT    NOT NULL,
    -- Unsigned 64 bits, as hexadecimal text.
    epoch              TEXT    NOT NULL,
    owner              TEXT,
    name               TEXT    NOT NULL,
    tag                TEXT    NOT NULL,
    backend            TEXT    NOT NULL,
    client_kind        TEXT    NOT NULL,
    client_version     TEXT    NOT NULL,
    opened_unix_ms     INTEGER NOT NULL,
    command_timeout_ms INTEGER NOT NULL
) STRICT;
