-- Who may sign in on the dashboard.
CREATE TABLE people (
    name              TEXT    NOT NULL PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
    -- Argon2id in PHC form; the password itself is nowhere.
    password          TEXT    NOT NULL CHECK (password GLOB '$argon2id$*'),
    role              TEXT    NOT NULL CHECK (role IN ('Admin', 'Viewer')),
    -- A JSON array of text.
    groups            TEXT    NOT NULL CHECK (json_valid(groups)),
    changed_unix_ms   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which session tag a group of people may see; an input of the dashboard-tags policy.
CREATE TABLE group_grants (
    group_name        TEXT    NOT NULL CHECK (length(group_name) BETWEEN 1 AND 64),
    tag               TEXT    NOT NULL CHECK (length(tag) BETWEEN 1 AND 128),
    PRIMARY KEY (group_name, tag)
) STRICT, WITHOUT ROWID;

-- What people changed.
CREATE TABLE audit (
    seq               INTEGER PRIMARY KEY,
    at_unix_ms        INTEGER NOT NULL,
    who               TEXT    NOT NULL,
    -- A dotted verb, e.g. `policy.rollback`.
    what              TEXT    NOT NULL,
    target            TEXT    NOT NULL,
    -- `done`, or the code of the error.
    outcome           TEXT    NOT NULL
) STRICT;
