-- Those that left a session, the newest last: only so many of them are kept.
CREATE INDEX runtime_node_left ON runtime_node_attachments (session_id, detached_at_unix_ms)
    WHERE detached_at_unix_ms IS NOT NULL AND state <> 'revoked';
