-- Which installation this database belongs to; one row.
CREATE TABLE instance (
    one               INTEGER PRIMARY KEY CHECK (one = 1),
    id                TEXT    NOT NULL,
    created_unix_ms   INTEGER NOT NULL,
    started_unix_ms   INTEGER NOT NULL,
    -- Version of the program that started last.
    version           TEXT    NOT NULL
) STRICT;

-- API keys. The secret is stored nowhere, only its SHA-256.
CREATE TABLE keys (
    id                TEXT    PRIMARY KEY,
    name              TEXT    NOT NULL,
    digest            BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    -- JSON arrays of text.
    scopes            TEXT    NOT NULL CHECK (json_valid(scopes)),
    read_globs        TEXT    NOT NULL CHECK (json_valid(read_globs)),
    write_globs       TEXT    NOT NULL CHECK (json_valid(write_globs)),
    created_unix_ms   INTEGER NOT NULL,
    -- Set once, never cleared.
    revoked_unix_ms   INTEGER
) STRICT, WITHOUT ROWID;
