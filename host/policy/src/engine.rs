//! Everything that is said to wasmtime: engines, limits, what WASI grants (nothing), and the deadlines that the ticker
//! makes real. Knows components, not policies. Invariant: a deadline is set together with the ticks that it takes to pass.

mod still;

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, ResourceLimiter, Store, UpdateDeadline,
};
use wasmtime_wasi::clocks::HostWallClock;
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::config::Limits;
use crate::ticker::{Pulse, TICK, Ticker};
use crate::words::Words;

pub(crate) use still::Waited;

/// How many deadlines a guest that gets no processor time may take, beyond the first.
const WALL_FACTOR: u32 = 20;
/// Of threads that compile or ask about the past. 10 gets a tenth of what a deciding thread gets when both want all.
#[cfg(target_os = "linux")]
const NICE: libc::c_int = 10;
/// Component instances in the pool: those of 3 generations and of what is made beside them, by the swapper and by one way
/// back, one for each thread and policy; and the gate's own with those that answer on the threads that ask. (The latter
/// guessed.)
const POOL_INSTANCES_PER_THREAD: u32 = 5 * 5;
const POOL_INSTANCES_OF_THE_GATE: u32 = 66;
/// Randomness that a guest gets by one call: the host makes it byte by byte, where no epoch reaches. Standard libraries ask
/// for 64 bytes at most.
const RANDOM_BYTES_MAX: u64 = 4 << 10;

/// The two ways to make instances and their linkers.
#[derive(Debug)]
pub(crate) struct Engines {
    /// Fast instances, for guests that fit its slots; absent where address space is short.
    pooled: Option<Side>,
    /// Any guest that keeps the limits.
    on_demand: Side,
    limits: Limits,
    /// Stops when the engines go.
    ticker: Ticker,
}

struct Side {
    engine: Engine,
    linker: Linker<GuestState>,
}

/// What a store holds beside the guest.
pub(crate) struct GuestState {
    wasi: WasiCtx,
    table: ResourceTable,
    limits: GuestLimits,
    overdue: Overdue,
    words: Words,
}

/// Epochs count time by the clock on the wall; on a busy machine a good guest may get none of it. So a guest whose time
/// is over goes on until its thread has spent the deadline once more on the processor, and ends for good after
/// `WALL_FACTOR` deadlines by the clock. A guest that keeps its deadline pays nothing for this.
#[derive(Debug)]
struct Overdue {
    deadline: Duration,
    /// Processor time of the thread, and the clock, when the deadline had passed; when it began, where that is known.
    since: Option<(Duration, Instant)>,
    pulse: Arc<Pulse>,
}

/// The limiter of one store; remembers that it said no, because the guest's trap does not tell.
#[derive(Debug)]
struct GuestLimits {
    memory_bytes_left: usize,
    table_elements_left: usize,
    instances_max: usize,
    refused: bool,
}

// === impl Engines ===

impl Engines {
    /// `threads`: those that decide.
    pub(crate) fn new(limits: &Limits, threads: usize) -> wasmtime::Result<Self> {
        let mut config = config(limits);
        let on_demand = Side::new(Engine::new(&config)?)?;
        config.allocation_strategy(pool(limits, threads));
        // A machine that lacks the address space for a pool runs without: slower instances, same answers.
        let pooled = match Engine::new(&config) {
            Ok(engine) => Some(Side::new(engine)?),
            Err(error) => {
                tracing::warn!(%error, "no pool for policy instances; making them on demand");
                None
            }
        };
        let engines = pooled.iter().map(|side| side.engine.weak()).chain([on_demand.engine.weak()]).collect();
        Ok(Self { pooled, on_demand, limits: limits.clone(), ticker: Ticker::start(engines) })
    }

    /// Machine code that both engines load, as they differ only in where instances live.
    pub(crate) fn compile(&self, bytes: &[u8]) -> wasmtime::Result<Vec<u8>> {
        self.on_demand.engine.precompile_component(bytes)
    }

    /// Names everything that machine code depends on beside its source.
    pub(crate) fn fingerprint(&self) -> u64 {
        // Not a secret and not an authenticator: it only names files in the cache, which are MACed.
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        self.on_demand.engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    /// Loads what `compile` made.
    ///
    /// # Safety
    ///
    /// `compiled` must be, byte for byte, the result of `compile` of an engine with this fingerprint.
    pub(crate) unsafe fn load(&self, compiled: &[u8]) -> wasmtime::Result<(Component, Allocation)> {
        if let Some(pooled) = &self.pooled {
            // SAFETY: the caller's promise is the one that is asked here.
            match unsafe { Component::deserialize(&pooled.engine, compiled) } {
                Ok(component) => return Ok((component, Allocation::Pooled)),
                Err(error) => tracing::debug!(%error, "a guest does not fit the pool"),
            }
        }
        // SAFETY: as above.
        let component = unsafe { Component::deserialize(&self.on_demand.engine, compiled)? };
        Ok((component, Allocation::OnDemand))
    }

    pub(crate) fn linker(&self, allocation: Allocation) -> &Linker<GuestState> {
        match (allocation, &self.pooled) {
            (Allocation::Pooled, Some(pooled)) => &pooled.linker,
            _ => &self.on_demand.linker,
        }
    }

    /// A store that grants nothing and keeps the limits.
    pub(crate) fn store(&self, engine: &Engine) -> Store<GuestState> {
        let mut store = Store::new(engine, GuestState::new(&self.limits, Arc::clone(self.ticker.pulse())));
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(self.limits.answer_bytes_max);
        // Without meters there is nothing to fill, and it says so.
        let _ = store.set_fuel(u64::MAX);
        store.epoch_deadline_callback(|mut guest| Ok(guest.data_mut().overdue.next()));
        store
    }
}

// === impl Overdue ===

impl Overdue {
    /// Called on the guest's own thread, at the deadline and then at each tick.
    fn next(&mut self) -> UpdateDeadline {
        let spent = thread_cpu_time();
        let (spent_then, then) = *self.since.get_or_insert_with(|| (spent, Instant::now()));
        let over = spent.saturating_sub(spent_then) >= self.deadline || then.elapsed() >= self.deadline * WALL_FACTOR;
        if over {
            return UpdateDeadline::Interrupt;
        }
        self.pulse.want(1);
        UpdateDeadline::Continue(1)
    }

    fn start(&mut self, deadline: Duration, ticks: u64) {
        (self.deadline, self.since) = (deadline, None);
        self.pulse.want(ticks);
    }
}

pub(crate) fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of our own, which the call fills; it keeps nothing.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    // A system without this clock: the clock on the wall decides alone, by `WALL_FACTOR`.
    if failed != 0 { Duration::ZERO } else { Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32) }
}

/// The calling thread, and those it starts, give way to all others from now on: compiling and asking again must
/// not take time from deciding. Where the system knows no priority of a thread, nothing happens.
pub(crate) fn give_way() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes numbers only; 0 is the calling thread. A refusal leaves the priority as it is.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
    }
}

/// Where a component's instances are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocation {
    Pooled,
    OnDemand,
}

/// Gives the guest so much time from now on.
pub(crate) fn set_deadline(store: &mut Store<GuestState>, deadline: Duration) {
    // One more tick, because the current one has begun already.
    let ticks = deadline.as_nanos().div_ceil(TICK.as_nanos()) as u64 + 1;
    store.set_epoch_deadline(ticks);
    store.data_mut().overdue.start(deadline, ticks);
}

/// Gives the guest so much time of the processor from now on, and by the clock no less: for what is long and seldom, where
/// asking for the thread's time at the beginning costs nothing that counts.
pub(crate) fn set_whole_deadline(store: &mut Store<GuestState>, deadline: Duration) {
    set_deadline(store, deadline);
    store.data_mut().overdue.since = Some((thread_cpu_time(), Instant::now()));
}

/// Gives the guest until the next tick, and `more` of processor time from then on.
pub(crate) fn set_brief(store: &mut Store<GuestState>, more: Duration) {
    store.set_epoch_deadline(1);
    store.data_mut().overdue.start(more, 1);
}

/// Was the last growth refused? Asked after a trap, to tell exhaustion from other ends.
pub(crate) fn memory_refused(store: &Store<GuestState>) -> bool {
    store.data().limits.refused
}

/// What the guest wrote since this was last asked.
pub(crate) fn words(store: &Store<GuestState>) -> Vec<String> {
    store.data().words.take()
}

/// WASI that does nothing by itself: what the standard libraries of Rust, Go, Python and JavaScript
/// bring along. Everything else grants something, or is unknown, and is refused.
pub(crate) fn is_inert_import(name: &str) -> bool {
    const INERT: [&str; 5] = ["wasi:io/", "wasi:clocks/", "wasi:random/", "wasi:cli/", "wasi:filesystem/"];
    // `types` of the contract holds no function.
    name.starts_with("tidegate:policy/types@") || INERT.iter().any(|prefix| name.starts_with(prefix))
}

/// Imports that are inert here but mean something elsewhere: time, randomness, files. None of them grants anything in this
/// gateway; a new version that begins to want them may still expect what it will not get.
pub(crate) fn is_notable_import(name: &str) -> bool {
    ["wasi:clocks/", "wasi:random/", "wasi:filesystem/"].iter().any(|prefix| name.starts_with(prefix))
}

fn config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(limits.metered)
        // Futures, streams and tasks of the component model: not in the contract, and they make every call dearer.
        .concurrency_support(false)
        .max_wasm_stack(limits.stack_bytes_max)
        // Bounds checks by guard pages need the whole 4 GiB reserved (address space, not memory).
        .memory_reservation(4 << 30)
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false);
    config
}

fn pool(limits: &Limits, threads: usize) -> InstanceAllocationStrategy {
    let threads = u32::try_from(threads).unwrap_or(u32::MAX);
    let instances = threads.saturating_mul(POOL_INSTANCES_PER_THREAD).saturating_add(POOL_INSTANCES_OF_THE_GATE);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(4))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(2))
        .total_stacks(0)
        .max_memory_size(limits.memory_bytes_max)
        .table_elements(limits.table_elements_max)
        .max_memories_per_component(1)
        .max_tables_per_component(4)
        .max_core_instances_per_component(8)
        // What a small guest touches is zeroed in place instead of being given back and faulted in again.
        .linear_memory_keep_resident(64 << 10)
        .table_keep_resident(4 << 10);
    InstanceAllocationStrategy::Pooling(pool)
}

// === impl Side ===

impl Side {
    fn new(engine: Engine) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
        still::add_to_linker(&mut linker)?;
        Ok(Self { engine, linker })
    }
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side").finish_non_exhaustive()
    }
}

// === impl GuestState ===

impl GuestState {
    fn new(limits: &Limits, pulse: Arc<Pulse>) -> Self {
        // No arguments, variables, folders, network or input, and an output of some lines; clocks that stand and dice that
        // always fall alike, because an answer may depend on nothing but its arguments.
        let words = Words::default();
        let wasi = WasiCtx::builder()
            .stdout(words.clone())
            .stderr(words.clone())
            .wall_clock(Standing)
            .secure_random(Deterministic::new(vec![4]))
            .insecure_random(Deterministic::new(vec![4]))
            .insecure_random_seed(4)
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let limits = GuestLimits {
            memory_bytes_left: limits.memory_bytes_max,
            table_elements_left: limits.table_elements_max,
            instances_max: 64,
            refused: false,
        };
        let overdue = Overdue { deadline: Duration::ZERO, since: None, pulse };
        Self { wasi, table: ResourceTable::new(), limits, overdue, words }
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// A calendar clock that always shows the same time; the one for durations is in `still`.
struct Standing;

impl HostWallClock for Standing {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

// === impl GuestLimits ===

impl ResourceLimiter for GuestLimits {
    /// Counts what all memories of the component take together.
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(take(&mut self.memory_bytes_left, current, desired, &mut self.refused))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(take(&mut self.table_elements_left, current, desired, &mut self.refused))
    }

    fn instances(&self) -> usize {
        self.instances_max
    }

    fn memories(&self) -> usize {
        self.instances_max
    }

    fn tables(&self) -> usize {
        self.instances_max
    }
}

fn take(left: &mut usize, current: usize, desired: usize, refused: &mut bool) -> bool {
    match left.checked_sub(desired.saturating_sub(current)) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => {
            *refused = true;
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: X-08
    #[test]
    fn time_is_over_by_the_processor_or_in_the_end_by_the_clock() {
        let deadline = Duration::from_secs(60);
        let (hour, spent) = (Duration::from_secs(3600), thread_cpu_time());
        let long_ago = Instant::now().checked_sub(deadline * (WALL_FACTOR + 1));
        let over = |since| {
            let mut overdue = Overdue { deadline, since, pulse: Arc::default() };
            matches!(overdue.next(), UpdateDeadline::Interrupt)
        };
        assert!(!over(None), "the deadline has just passed, and may have passed beside the guest");
        assert!(!over(Some((spent, Instant::now()))));
        // A machine that has not been up for so long has no such time to tell of.
        if let Some(long_ago) = long_ago {
            assert!(over(Some((spent + hour, long_ago))), "it got no processor time at all");
        }
        let mut spinning = Overdue { deadline: Duration::from_millis(1), since: None, pulse: Arc::default() };
        let end = Instant::now() + Duration::from_secs(30);
        while !matches!(spinning.next(), UpdateDeadline::Interrupt) {
            assert!(Instant::now() < end, "a guest that spins for 30 s goes on");
        }
    }
}
