//! The one error that leaves Tidegate: a dotted code, a sentence, details. `grpc::status` projects
//! it to a rich gRPC status and `http::problem` to problem+json; nothing else maps errors. It knows
//! neither transport. Invariant: docs/errors.md lists exactly the codes of `CODES`.

use std::fmt;

/// The class of an error, one for each answer a transport can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request is wrong by itself.
    InvalidArgument,
    /// No usable credential.
    Unauthenticated,
    /// A credential that does not suffice; also what a foreign or unknown session answers.
    PermissionDenied,
    /// Said only to those who may see everything.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// A cap or a rate is reached; trying later can help.
    ResourceExhausted,
    /// The state does not allow it; trying again does not help by itself.
    FailedPrecondition,
    /// A position outside of what exists.
    OutOfRange,
    /// It took too long; whether it was done is unknown.
    DeadlineExceeded,
    /// Not now: starting, draining, a part is away.
    Unavailable,
    /// Ended by someone else.
    Aborted,
    /// Stored data is not what it must be.
    DataLoss,
    /// Our fault.
    Internal,
    /// Not in this build.
    Unimplemented,
}

macro_rules! codes {
    ($($variant:ident = $text:literal, $class:ident, $cause:literal, $remedy:literal;)*) => {
        /// Every code that can leave the gateway. The text is stable; messages are not.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $cause] $variant,)* }

        /// Code, class, cause and remedy, in the order of docs/errors.md.
        pub const CODES: &[CodeRow] = &[
            $(CodeRow { code: Code::$variant, text: $text, class: Class::$class, cause: $cause, remedy: $remedy },)*
        ];

        impl Code {
            /// The dotted text, e.g. `session.not_permitted`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }
            /// The class that decides about status numbers.
            pub const fn class(self) -> Class {
                match self { $(Code::$variant => Class::$class,)* }
            }
        }
    };
}

/// One row of the table of codes.
#[derive(Clone, Copy, Debug)]
pub struct CodeRow {
    pub code: Code,
    pub text: &'static str,
    pub class: Class,
    /// What made it happen, a sentence.
    pub cause: &'static str,
    /// What to do about it, a sentence.
    pub remedy: &'static str,
}

codes! {
    AuthMissing = "auth.missing", Unauthenticated,
        "The request carries no `authorization: Bearer` header.",
        "Send the key that `tidegate key create` printed.";
    AuthInvalid = "auth.invalid", Unauthenticated,
        "The key is malformed, unknown or revoked.",
        "Check that the whole key was copied; `tidegate key list` shows which are live.";
    AuthScope = "auth.scope", PermissionDenied,
        "The key lacks the scope that the call needs.",
        "Use a key with the scope named in the details.";
    AuthTransport = "auth.transport", PermissionDenied,
        "Operators' calls over the network are switched off, or came without TLS from another machine.",
        "Use the command line on the gateway's machine, or switch `admin_over_network` and TLS on.";
    SessionNotPermitted = "session.not_permitted", PermissionDenied,
        "The session is unknown, or belongs to another key.",
        "Use the key that opened it, or one with the scope `sessions:all`.";
    SessionUnknown = "session.unknown", NotFound,
        "There is no session of this id (said only to keys that may see all sessions).",
        "List the sessions with `tidegate session list`.";
    SessionAdopting = "session.adopting", Unavailable,
        "The gateway has just started and takes the session's worker over from the one before it.",
        "Try again in a moment; the session goes on or is gone.";
    SessionLimit = "session.limit", ResourceExhausted,
        "As many sessions as `max_sessions` are open.",
        "Close one, or raise `max_sessions`.";
    SessionKeyLimit = "session.key_limit", ResourceExhausted,
        "The key has as many sessions open as `max_sessions_per_key`.",
        "Close one of them, or raise the limit.";
    SessionStartFailed = "session.start_failed", Unavailable,
        "The worker process did not start, did not prove itself, or died while starting.",
        "Read the gateway's log for the worker's last words; the backend's settings are the usual cause.";
    SessionFaulted = "session.faulted", FailedPrecondition,
        "The worker died or broke the protocol; the session is over.",
        "Close the session and open a new one.";
    SessionClosed = "session.closed", Aborted,
        "The session was closed or killed while the call was under way.",
        "Open a new session.";
    SessionClosing = "session.closing", FailedPrecondition,
        "The session is being closed.",
        "Open a new session.";
    BackendUnknown = "backend.unknown", InvalidArgument,
        "No backend of this name is configured.",
        "Use one of the names in the details, or leave `requested_backend` empty.";
    PolicyDenied = "policy.denied", PermissionDenied,
        "The access policy said no; the details name the rule, the generation and the reason.",
        "Ask the operator for the right, or see `tidegate policy list` for what decides.";
    PolicyFailed = "policy.failed", Unavailable,
        "The policy that had to decide failed, and failing means no.",
        "See `tidegate policy list`; roll back or replace the component.";
    PolicyBusy = "policy.busy", ResourceExhausted,
        "More decisions are waiting than the policy threads can make.",
        "Try again; if it lasts, a policy is slow: see its metrics.";
    PolicyRefused = "policy.refused", FailedPrecondition,
        "A candidate set of policies did not pass the gate; the details say where and why.",
        "Mend the file that is named; the generation before serves on.";
    PolicyNothingToRollBack = "policy.nothing_to_roll_back", FailedPrecondition,
        "There is no earlier generation.",
        "Put the wanted components into the plugins folder.";
    PolicyChanged = "policy.changed", FailedPrecondition,
        "The policies, or the shadow, are not any more those that the page showed or the call named; nothing was done.",
        "Look at what there is now, and repeat what is still wanted.";
    PolicyNoShadow = "policy.no_shadow", FailedPrecondition,
        "There is no shadow to look at or to promote.",
        "Start one with `tidegate policy shadow start`.";
    PolicyUnproven = "policy.unproven", FailedPrecondition,
        "The shadow was compared too little, answers too much otherwise or has failed, so it is not promoted.",
        "Look at `tidegate policy shadow diff`; wait for more decisions, or allow more with --max-rate.";
    DecisionsOff = "policy.decisions_off", FailedPrecondition,
        "No decisions are kept: --decision-log-files is 0.",
        "Start the gateway with another number; what was decided before cannot be told.";
    DecisionUnknown = "policy.decision_unknown", NotFound,
        "The decision log has no decision of this id, or not any more.",
        "`tidegate policy decisions` lists what there is; the oldest go first, and `decision_log_files` says how much is kept.";
    StreamLimit = "stream.limit", ResourceExhausted,
        "EventSubscriberLimitReached: the session has as many readers as allowed.",
        "End a stream, or raise `max_event_subscribers_per_session`.";
    StreamKeyLimit = "stream.key_limit", ResourceExhausted,
        "The key has as many event streams open as `max_event_subscribers_per_key`.",
        "End one of them, or raise the limit.";
    StreamConnectionLimit = "stream.connection_limit", ResourceExhausted,
        "The connection carries as many event streams as `max_event_streams_per_connection`.",
        "Open another connection, or raise the limit.";
    StreamAlreadyOpen = "stream.already_open", AlreadyExists,
        "The gateway allows one reader per session, and there is one.",
        "End that stream, or set `allow_multiple_event_subscribers`.";
    StreamPositionBeyondHead = "stream.position_beyond_head", OutOfRange,
        "The resume position is newer than anything the session has seen.",
        "Resume at the last `to` that this stream delivered.";
    StreamPressure = "stream.pressure", ResourceExhausted,
        "EventQueueOverflow: the reader fell too far behind and the back-pressure policy ended it.",
        "Read faster, ask for less, or resume at the position in the details.";
    StreamDraining = "stream.draining", Unavailable,
        "The gateway is shutting down, or another one takes over.",
        "With `session_goes_on` in the details resume at the position there (alarms begin anew) as soon as somebody answers; otherwise the session ends with the gateway, and the position says how much of it was delivered.";
    StreamSessionEnded = "stream.session_ended", Aborted,
        "The session ended; its reason is in the message.",
        "Open a new session.";
    StreamTakenOver = "stream.taken_over", Aborted,
        "The same reader resumed elsewhere with its token, so this older stream of it ended.",
        "Nothing; the newer stream goes on where this one's client said it was.";
    SnapshotSuperseded = "snapshot.superseded", Aborted,
        "Policies, keys or items changed while the parts of a snapshot were sent.",
        "Take it again.";
    TokenDamaged = "stream.token_damaged", InvalidArgument,
        "The resume token was cut, changed, or never made by this gateway.",
        "Send the newest token as it came, or resume by epoch and sequence.";
    TokenExpired = "stream.token_expired", FailedPrecondition,
        "The resume token is older than an hour.",
        "Resume by epoch and sequence.";
    TokenRevoked = "stream.token_revoked", PermissionDenied,
        "The key that signed the resume token was rotated out twice, or an operator revoked all tokens.",
        "Resume by epoch and sequence.";
    TokenForeign = "stream.token_foreign", PermissionDenied,
        "The resume token was made for another key, session or epoch; the details say which.",
        "Send the token of this session that came with this key.";
    AlarmUnsupported = "alarm.unsupported", FailedPrecondition,
        "The session's worker tells of no alarms: its kind has none, or it is of an older version.",
        "Use a session of another backend; a worker that was taken over keeps its version until its session is opened anew.";
    AlarmNotReady = "alarm.not_ready", Unavailable,
        "The worker has not told its alarms yet, which it does when its session begins or was taken over.",
        "Try again in a moment; if it lasts, the worker hangs.";
    AlarmUnknown = "alarm.unknown", NotFound,
        "No alarm of this id stands that the key may see, or the table had no room for it.",
        "List the alarms that stand; raise `max_alarms_per_session` if some are not kept.";
    AlarmNotAcknowledged = "alarm.not_acknowledged", FailedPrecondition,
        "Some of the alarms that were chosen on the dashboard could not be acknowledged; the message names each with its reason.",
        "Open the session's alarms again: the others are acknowledged. While a provider is lost, wait for the next one.";
    AlarmChanged = "alarm.changed", FailedPrecondition,
        "An alarm that was chosen on the dashboard is not any more as the page showed it; nothing was acknowledged.",
        "Look at what it is now, and acknowledge that.";
    CommandLimit = "command.limit", ResourceExhausted,
        "As many commands as `max_pending_commands_per_session` are waiting.",
        "Wait for answers before sending more.";
    CommandTimeout = "command.timeout", DeadlineExceeded,
        "The worker did not answer in time; the command may still take effect.",
        "Check the item's value before repeating a write.";
    CommandOutcomeUnknown = "command.outcome_unknown", Unavailable,
        "The pipe broke while the command was in flight; whether it took effect is unknown.",
        "Check the item's value before repeating a write.";
    CommandMissing = "command.missing", InvalidArgument,
        "The request names no method.",
        "Set one of the fields of `Command.method`.";
    MxCallFailed = "mx.call_failed", FailedPrecondition,
        "The MXAccess method raised; the details carry the HRESULT.",
        "See the HRESULT; a write before the first data change is a common cause: advise first.";
    RateLimited = "rate.limited", ResourceExhausted,
        "The rate-limit policy refused the request; or so many sign in just now that no password more is checked.",
        "Wait as long as the details say.";
    LimitItems = "limit.items", ResourceExhausted,
        "The session has as many items as `max_items_per_session`.",
        "Remove items, or raise the limit.";
    LimitText = "limit.text", InvalidArgument,
        "A name, tag or definition is longer than allowed.",
        "Shorten the field that the details name.";
    LimitBulk = "limit.bulk", InvalidArgument,
        "A bulk command has more elements than `max_bulk_items`.",
        "Split it.";
    RequestInvalid = "request.invalid", InvalidArgument,
        "A field has a value it cannot have; the details name it.",
        "Correct the field.";
    RequestTooLarge = "request.too_large", ResourceExhausted,
        "The request's message is longer than 4 MiB, or than 66 MiB where an operator sends a candidate; the details say which.",
        "Split the command; a component has at most 64 MiB.";
    RequestMalformed = "request.malformed", InvalidArgument,
        "The request cannot be read: not the message of this method, cut short, or compressed.",
        "Send the method's own message, uncompressed; the .proto files say which.";
    RequestUnimplemented = "request.unimplemented", Unimplemented,
        "There is no such service, method or encoding here.",
        "See which services there are by reflection; send messages uncompressed.";
    KeyUnknown = "key.unknown", NotFound,
        "There is no key of this id.",
        "List the keys with `tidegate key list`.";
    KeyInvalid = "key.invalid", InvalidArgument,
        "A scope or a glob of the new key is not valid.",
        "Use the scopes `sessions:own`, `sessions:all`, `node`, `admin` and globs like `Area1.*`.";
    KeyLimit = "key.limit", ResourceExhausted,
        "As many keys as allowed are live.",
        "Revoke keys that are no longer used.";
    PersonInvalid = "person.invalid", InvalidArgument,
        "The name, password, role, group or tag of a person of the dashboard is not allowed.",
        "Names, groups and tags have at most 64, 64 and 128 characters; a password has 8 to 256.";
    PersonUnknown = "person.unknown", NotFound,
        "There is no such person or grant.",
        "List them with `tidegate user list`.";
    PeopleLimit = "person.limit", ResourceExhausted,
        "As many people or grants as allowed are known.",
        "Remove those that are no longer needed, or grant to groups instead of persons.";
    SignInFailed = "signin.failed", Unauthenticated,
        "Name or password is wrong, or the person has signed out.",
        "Sign in again; `tidegate user add` sets a new password.";
    SignInThrottled = "signin.throttled", ResourceExhausted,
        "Too many wrong passwords for this name or from this address.",
        "Wait for the time in the details and try again.";
    SignInRole = "signin.role", PermissionDenied,
        "The change is for people of the role Admin.",
        "Ask an administrator; `tidegate user add --role Admin` makes one.";
    SignInDirectory = "signin.directory", Unavailable,
        "The directory service did not answer, or not as it should; the log says why.",
        "Sign in as somebody whom the gateway itself knows; mend what the log names.";
    SignInNoRole = "signin.no_role", PermissionDenied,
        "The password is right, and none of the person's groups in the directory has a role here.",
        "Put the person into one of `ldap_admin_groups` or `ldap_viewer_groups`.";
    SignInForged = "signin.forged", PermissionDenied,
        "The form did not come from a page of this dashboard, or is older than its sign-in.",
        "Open the page again and repeat the change there.";
    StreamTokenInvalid = "stream.token_invalid", Unauthenticated,
        "The stream token is malformed, forged, expired, or its person is gone.",
        "Ask for a new one; a token lasts 30 minutes.";
    HttpNoSuchPage = "http.no_such_page", NotFound,
        "The HTTP address serves nothing at this path with this method.",
        "GET `/metrics`, `/api/health`, `/api/version` or `/api/bootstrap`; POST `/api/runtimenode.attach` and its siblings.";
    HttpVersionMismatch = "http.version_mismatch", FailedPrecondition,
        "A web client was made for another version of the gateway than the one that answers; the details name it.",
        "Load the page again, or use the client of that version; send its version as `build`.";
    HttpHostRefused = "http.host_refused", PermissionDenied,
        "The request's Host header does not name this machine's loopback.",
        "Use the address that the gateway listens on, e.g. `http://127.0.0.1:7411`.";
    HttpPages = "http.pages", ResourceExhausted,
        "This person, or all together, have as many live pages open as may be.",
        "Close some; a page without a live connection shows what was when it was loaded.";
    HttpTooLarge = "http.too_large", InvalidArgument,
        "The request's body is larger than the HTTP address takes.",
        "Send less.";
    StorageFull = "storage.full", Unavailable,
        "No room is left on the disk of the data folder; what was asked for was not done.",
        "Make room; the gateway notices by itself. Sessions and streams go on meanwhile.";
    StorageUnavailable = "storage.unavailable", Unavailable,
        "The database cannot be written: read-only, locked or failing.",
        "Mend the data folder; sessions and streams go on meanwhile.";
    BackupRunning = "backup.running", Unavailable,
        "Another backup of this gateway is being made, or its policies kept changing meanwhile.",
        "Try again when it is done.";
    BackupInvalid = "backup.invalid", DataLoss,
        "The folder is no whole backup, was changed since, or was made by a newer Tidegate.",
        "Take another backup, or the version of Tidegate that its manifest names.";
    StorageCorrupt = "storage.corrupt", DataLoss,
        "The database is not readable as what it should be.",
        "Restore it from a backup, or start with a new data folder.";
    StorageNewer = "storage.newer", FailedPrecondition,
        "The database was written by a newer Tidegate.",
        "Run that version, or restore the backup it made before migrating.";
    DataFolderLocked = "data.locked", FailedPrecondition,
        "Another gateway works on this data folder.",
        "Stop it, or use another `--data`.";
    DataFolderUnusable = "data.unusable", FailedPrecondition,
        "The data folder cannot be created, written or made private.",
        "Check owner, mode and free space of the path in the details.";
    ConfigInvalid = "config.invalid", InvalidArgument,
        "The configuration has errors; all of them are in the details.",
        "Correct each key as its line says.";
    TlsUnusable = "tls.unusable", FailedPrecondition,
        "A certificate, its private key or the clients' authority cannot be read, or they do not belong together.",
        "Mend the file that is named; `tidegate tls dev` makes a set to try with.";
    ListenFailed = "listen.failed", FailedPrecondition,
        "An address cannot be listened on.",
        "Use a free port, or stop what holds it.";
    PluginsFolderUnusable = "plugins.unusable", FailedPrecondition,
        "The plugins folder is missing, not a folder, or writable by others.",
        "Create it, or take the right to write from group and others.";
    TakeOverRefused = "takeover.refused", FailedPrecondition,
        "The gateway that works on the folder does not hand over to this one; the message says why. It serves on.",
        "Mend what is named; or stop the one that runs and start the new one.";
    TakeOverBusy = "takeover.busy", Aborted,
        "Another gateway is just taking over; the message names its process.",
        "Wait until it is done: `tidegate status` shows the version that serves. If it hangs, end the process that is named; after a minute its place is free in any case.";
    TakeOverFailed = "takeover.failed", Unavailable,
        "The hand-over from one gateway to the next came to nothing; the one before goes on.",
        "See the log of both for the cause, and try again.";
    Draining = "gateway.draining", Unavailable,
        "The gateway takes nothing new: it is shutting down, or another one is just taking over, as the message says.",
        "Try again, after the time in the details if there is one; it is told where the sessions go on.";
    VersionNodeRequired = "version.node_required", FailedPrecondition,
        "The key has the scope `node` and the write names no runtime node.",
        "Attach a node and name it in `InvokeRequest.node_id`, or use a key without that scope.";
    VersionFloorExceeded = "version.floor_exceeded", FailedPrecondition,
        "The node's version is below the floor, so it reads but does not write; it stays attached.",
        "Upgrade the node to the floor in the details, or ask the operator (`tidegate node floor`).";
    VersionMalformed = "version.malformed", InvalidArgument,
        "A version or a floor is not MAJOR.MINOR, two plain numbers.",
        "Send a version such as `1.10`.";
    VersionFloorMalformed = "version.floor_malformed", DataLoss,
        "The stored version floor is damaged, lost or older than before; nodes neither attach nor write until it is set again, reads go on.",
        "Set it again with `tidegate node floor --set` or `--clear`, and find out who else writes the database.";
    VersionRefused = "version.refused", FailedPrecondition,
        "The version-floor policy did not admit the node at all; its reason is in the details.",
        "See `tidegate policy list` for what decides.";
    NodeAttachConflict = "runtimenode.attach_conflict", AlreadyExists,
        "The node is active in another session, or under another key.",
        "Detach it there first, or wait until it counts as offline (60 s without a heartbeat). If it is not yours there, ask an operator: `tidegate node list --json` shows whose it is, `tidegate node revoke NODE --session SESSION` ends it.";
    NodeAttachRevoked = "runtimenode.attach_revoked", FailedPrecondition,
        "An operator revoked the node in this session, for good.",
        "Use another session.";
    NodeNotInState = "runtimenode.state", FailedPrecondition,
        "The attachment's state does not allow it; the details name the state.",
        "Send a heartbeat first, or attach again after a detach.";
    NodeUnknown = "runtimenode.unknown", NotFound,
        "This key has no such attachment; to an operator: there is no record of the node.",
        "Nodes: attach to the session first, with the same key. Operators: `tidegate node list --ended` shows every record.";
    NodeLimit = "runtimenode.limit", ResourceExhausted,
        "As many nodes as allowed are attached, to the gateway or by this key; the details say which bound it is.",
        "Detach nodes that are no longer used.";
    Internal = "internal", Internal,
        "A defect of the gateway.",
        "Report it with the log line of the same time.";
}

/// A detail: key and value; never a secret, never a tag's value.
pub type Detail = (&'static str, String);

/// An error on its way to a caller.
#[derive(Clone, Debug)]
pub struct Error {
    code: Code,
    message: String,
    details: Vec<Detail>,
}

/// Shorthand of the gateway.
pub type Result<T, E = Error> = std::result::Result<T, E>;

// === impl Error ===

impl Error {
    /// A message is a sentence for people: what is wrong and, where it is not in the table, what to do.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// Adds a detail for programs.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.details.push((key, value.to_string()));
        self
    }

    pub fn code(&self) -> Code {
        self.code
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn details(&self) -> &[Detail] {
        &self.details
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code.as_str())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_dotted_and_explained() {
        let mut seen = HashSet::new();
        for row in CODES {
            assert!(seen.insert(row.text), "{} stands twice", row.text);
            assert!(row.text.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'_'), "{}", row.text);
            assert_eq!(row.code.as_str(), row.text);
            assert!(row.cause.ends_with('.') && row.remedy.ends_with('.'), "{} wants sentences", row.text);
        }
    }
}
