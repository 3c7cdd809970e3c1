//! What the gateway sets about policies, and what can be wrong about it. Knows no wasmtime. Invariant:
//! a default here is what an unconfigured gateway runs with.

use std::path::PathBuf;
use std::time::Duration;

use crate::evidence::DecisionLog;
use crate::sign::KeyError;

/// How policies are found, proved and run.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// Where operators put components; `None`: the embedded defaults decide for ever.
    pub plugins_dir: Option<PathBuf>,
    /// Private folder for accepted sets, the compile cache and what has been learnt about bad components.
    pub store_dir: PathBuf,
    /// Threads that run guests. More than cores do not help.
    pub threads: usize,
    /// Decisions that wait for a thread; beyond it they fail as 'busy'.
    pub queue: usize,
    pub deadlines: Deadlines,
    pub limits: Limits,
    pub breaker: Breaker,
    pub watch: Watch,
    pub trust: Trust,
    pub decisions: DecisionLog,
    /// A candidate that would have answered more than this part (0 to 1) of the latest decisions otherwise is refused
    /// until an operator approves it; None: it is only told.
    pub difference_max: Option<f64>,
    /// Compiled components that are kept on the disk, bytes of all together; what was not used for longest leaves.
    pub cache_bytes_max: u64,
}

/// Whose policies are taken.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// A public key in minisign's format, or a folder of `*.pub`; read at the start and at each `reload`.
    pub keys: Option<PathBuf>,
    /// Nothing but what one of `keys` signed, component and settings, is taken; the embedded defaults are.
    pub signed_only: bool,
}

/// How long guests and callers have.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// One decision, in the guest.
    pub decide: Duration,
    /// Instantiation, `describe` and `configure`, each.
    pub configure: Duration,
    /// One decision, waiting for a thread.
    pub queue: Duration,
    /// All vectors of one component.
    pub vectors: Duration,
    /// Compiling one component, whatever its size.
    pub compile: Duration,
    /// So much more for each MiB of it: 18 MiB of Python took more than a minute on a busy machine.
    pub compile_per_mib: Duration,
}

/// What a guest can take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Linear memory of one instance, all memories together.
    pub memory_bytes_max: usize,
    pub table_elements_max: usize,
    pub stack_bytes_max: usize,
    /// What one call may copy out of the guest; also bounds `describe`.
    pub answer_bytes_max: usize,
    /// A reason or message inside an answer; longer is a bad answer.
    pub reason_bytes_max: usize,
    /// Size of one component file.
    pub component_bytes_max: u64,
    /// Size of one settings file, and of settings as JSON.
    pub settings_bytes_max: u64,
    /// Files in the folder that count (components and settings).
    pub files_max: usize,
    /// Count instructions. Calls get dearer; a gateway does not, an author's bench does.
    pub metered: bool,
}

/// When a component that keeps failing is taken back.
#[derive(Clone, Debug)]
pub struct Breaker {
    /// So many failures …
    pub failures: usize,
    /// … within so long.
    pub window: Duration,
    /// A component that answered access for less than this goes back to whatever served before it, the
    /// embedded default too. After it its denials are relied on: in place of the default access is closed.
    pub probation: Duration,
}

/// How the folder is looked at.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Changes closer together than this are one generation.
    pub settle: Duration,
    /// Pause between two looks; two equal ones make a file readable where no notice came.
    pub poll: Duration,
    /// How long a file that somebody began to write and has not closed may stand still until it is taken as it is; without
    /// notices nobody knows that.
    pub unclosed: Duration,
    /// How long a removed file stays in force.
    pub removal_quiet: Duration,
    /// Off: only `poll` finds changes (file systems that send no notices).
    pub notify: bool,
}

/// Why policies cannot start at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the plugins folder {path} cannot be used: {why}")]
    PluginsFolder { path: PathBuf, why: String },
    #[error("the policy store {path} cannot be used: {why}")]
    Store { path: PathBuf, why: String },
    #[error("the keys of trusted signers cannot be used: {0}")]
    Keys(#[from] KeyError),
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    #[error("the start was given up")]
    GivenUp,
    /// A defect of this build: its own components do not pass its own gate.
    #[error("an embedded policy is refused: {0}")]
    Embedded(String),
}

// === impl PolicyConfig ===

impl PolicyConfig {
    pub fn new(store_dir: impl Into<PathBuf>) -> Self {
        Self {
            plugins_dir: None,
            store_dir: store_dir.into(),
            threads: 2,
            queue: 1024,
            deadlines: Deadlines::default(),
            limits: Limits::default(),
            breaker: Breaker::default(),
            watch: Watch::default(),
            trust: Trust::default(),
            decisions: DecisionLog::default(),
            difference_max: None,
            cache_bytes_max: 512 << 20,
        }
    }
}

// Guessed, all of them, from what the default components and an 18 MB Python guest need, doubled.

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            decide: Duration::from_millis(50),
            configure: Duration::from_secs(2),
            queue: Duration::from_secs(1),
            vectors: Duration::from_secs(5),
            compile: Duration::from_secs(60),
            compile_per_mib: Duration::from_secs(15),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 128 << 20,
            table_elements_max: 65_536,
            stack_bytes_max: 512 << 10,
            answer_bytes_max: 1 << 20,
            reason_bytes_max: 256,
            component_bytes_max: 64 << 20,
            settings_bytes_max: 256 << 10,
            files_max: 64,
            metered: false,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 5, window: Duration::from_secs(10), probation: Duration::from_secs(60) }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(20),
            poll: Duration::from_secs(2),
            unclosed: Duration::from_secs(30),
            removal_quiet: Duration::from_secs(2),
            notify: true,
        }
    }
}
