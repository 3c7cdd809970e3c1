-- Who belongs to a session. Nodes attach beside it, never in it.
CREATE TABLE session_memberships (
    session_id        TEXT    NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    -- A key's id.
    member            TEXT    NOT NULL,
    role              TEXT    NOT NULL CHECK (role IN ('owner', 'member')),
    joined_unix_ms    INTEGER NOT NULL,
    PRIMARY KEY (session_id, member)
) STRICT, WITHOUT ROWID;
INSERT INTO session_memberships (session_id, member, role, joined_unix_ms)
    SELECT id, owner, 'owner', opened_unix_ms FROM sessions WHERE owner IS NOT NULL;

-- Nodes and the sessions they joined. No column says whether a node may write: that is asked.
CREATE TABLE runtime_node_attachments (
    seq                   INTEGER PRIMARY KEY,
    node_id               TEXT    NOT NULL CHECK (length(node_id) BETWEEN 1 AND 128),
    -- No foreign key: the session's record is written beside the opening and may come a moment later.
    session_id            TEXT    NOT NULL CHECK (session_id GLOB 'session-*' AND length(session_id) = 40),
    -- The key that attached it.
    key_id                TEXT    NOT NULL,
    kind                  TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),
    version               TEXT    NOT NULL CHECK (length(version) BETWEEN 3 AND 21),
    -- A JSON array of text.
    capabilities          TEXT    NOT NULL CHECK (json_valid(capabilities)),
    state                 TEXT    NOT NULL
        CHECK (state IN ('registering', 'online', 'degraded', 'offline', 'revoked')),
    attached_at_unix_ms   INTEGER NOT NULL,
    updated_at_unix_ms    INTEGER NOT NULL,
    -- Set by a detach or the end of the session. An offline row without it has only fallen silent, and a
    -- heartbeat brings it back.
    detached_at_unix_ms   INTEGER CHECK (detached_at_unix_ms IS NULL OR state IN ('offline', 'revoked')),
    UNIQUE (node_id, session_id)
) STRICT;
-- At most one active row for each node.
CREATE UNIQUE INDEX runtime_node_active ON runtime_node_attachments (node_id)
    WHERE state IN ('registering', 'online', 'degraded');
CREATE INDEX runtime_node_session ON runtime_node_attachments (session_id);

-- The last sign of life, written in groups; never newer than the truth, at most half a minute older.
CREATE TABLE runtime_node_presence (
    node_id                  TEXT    NOT NULL,
    session_id               TEXT    NOT NULL,
    last_heartbeat_unix_ms   INTEGER NOT NULL,
    reported                 TEXT    NOT NULL CHECK (reported IN ('online', 'degraded')),
    PRIMARY KEY (node_id, session_id),
    FOREIGN KEY (node_id, session_id) REFERENCES runtime_node_attachments (node_id, session_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- The version floor; one row. Its form is not checked here: whoever reads it says loudly when it is damaged.
CREATE TABLE version_floor (
    one               INTEGER PRIMARY KEY CHECK (one = 1),
    -- MAJOR.MINOR; NULL: there is no floor.
    floor             TEXT,
    -- Rises with every change.
    revision          INTEGER NOT NULL,
    set_at_unix_ms    INTEGER NOT NULL
) STRICT;
INSERT INTO version_floor (one, floor, revision, set_at_unix_ms) VALUES (1, NULL, 1, 0);
