//! Good and bad sets of policies, one after the other, through the folder as an operator would. Knows of each
//! generation which half of the items it denies. Invariant: a bad set is refused before the next one is tried.

use super::Area;
use crate::{
    gateway::{Gateway, place},
    policy::{COMPONENT, marked},
};
use anyhow::{bail, ensure};
use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};
use tidegate_client::{Admin, wire::SwapRecord};

/// What was swapped.
#[derive(Debug)]
pub(super) struct Swaps {
    pub(super) good: Vec<Swap>,
    pub(super) bad: u32,
    /// Which half a generation denies.
    pub(super) denies: HashMap<u64, Area>,
    /// The half that the newest one denies.
    denied: Option<Area>,
}

#[derive(Debug)]
pub(super) struct Swap {
    pub(super) generation: u64,
    pub(super) at_unix_ms: u64,
    /// By reader.
    pub(super) fences: Vec<(String, u64)>,
}

/// How one out of so many is bad, and one a new component rather than new settings.
const BAD_EVERY: u32 = 4;
const COMPONENT_EVERY: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(2);

// === impl Swaps ===

impl Swaps {
    /// The first set of the folder: denies nobody, so that every item can be advised.
    pub(super) async fn begin(gateway: &Gateway) -> anyhow::Result<Self> {
        let admin = gateway.admin().await?;
        let before = admin.policies().await?.generation;
        place(&gateway.plugins(), "access.toml", b"deny = []\n")?;
        place(&gateway.plugins(), "access.wasm", COMPONENT)?;
        swapped(&admin, before).await?;
        Ok(Self { good: Vec::new(), bad: 0, denies: HashMap::new(), denied: None })
    }

    /// `count` attempts, spread over `length`; later ones do not wait when earlier ones were late.
    pub(super) async fn run(
        mut self,
        gateway: &Gateway,
        admin: &Admin,
        count: u32,
        length: Duration,
    ) -> anyhow::Result<Self> {
        let (folder, started) = (gateway.plugins(), Instant::now());
        for n in 0..count {
            tokio::time::sleep_until((started + length * n / count).into()).await;
            if n % BAD_EVERY == BAD_EVERY - 1 {
                self.bad(&folder, admin, n).await?;
            } else {
                self.good(&folder, admin, n).await?;
            }
        }
        Ok(self)
    }

    async fn good(&mut self, folder: &Path, admin: &Admin, n: u32) -> anyhow::Result<()> {
        let before = admin.policies().await?.generation;
        // One file at a time, so that each generation has one meaning however the folder is looked at.
        if n.is_multiple_of(COMPONENT_EVERY) {
            place(folder, "access.wasm", &marked(n as usize))?;
        } else {
            let denied = self.denied.map_or(Area::One, Area::other);
            place(folder, "access.toml", format!("deny = [\"{}.*\", \"Nobody.{n}\"]\n", denied.name()).as_bytes())?;
            self.denied = Some(denied);
        }
        let swap = swapped(admin, before).await?;
        self.denies.extend(self.denied.map(|denied| (swap.generation, denied)));
        self.good.push(Swap {
            generation: swap.generation,
            at_unix_ms: swap.at_unix_ms.unsigned_abs(),
            fences: swap.fences.into_iter().map(|fence| (fence.reader, fence.sequence)).collect(),
        });
        Ok(())
    }

    async fn bad(&mut self, folder: &Path, admin: &Admin, n: u32) -> anyhow::Result<()> {
        let before = admin.policies().await?;
        let component = std::fs::read(folder.join("access.wasm"))?;
        let settings = std::fs::read(folder.join("access.toml"))?;
        let (name, bytes): (&str, Vec<u8>) = match (n / BAD_EVERY) % 6 {
            0 => ("access.wasm", format!("this is no component {n}").into_bytes()),
            1 => ("access.wasm", [&component[..component.len() / 2], n.to_string().as_bytes()].concat()),
            2 => ("access.wasm", [b"\0asm\x01\0\0\0".as_slice(), n.to_string().as_bytes()].concat()),
            3 => ("access.wasm", network(n)?),
            4 => ("access.toml", format!("deny = {n}\n").into_bytes()),
            _ => ("access.toml", format!("denny = [\"{n}\"]\n").into_bytes()),
        };
        place(folder, name, &bytes)?;
        let deadline = Instant::now() + PATIENCE;
        let newest = |swaps: &[SwapRecord]| swaps.first().map(|swap| (swap.at_unix_ms, swap.message.clone()));
        loop {
            let now = admin.policies().await?;
            ensure!(now.generation == before.generation, "a bad set decides: {name}, {n}");
            if now.swaps.first().is_some_and(|swap| swap.outcome == "refused")
                && newest(&now.swaps) != newest(&before.swaps)
            {
                break;
            }
            ensure!(Instant::now() < deadline, "{name} was not refused: {:?}", now.swaps.first());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.bad += 1;
        // As it was: the next attempt must not be refused for this one's sake.
        place(folder, name, if name == "access.wasm" { &component } else { &settings })
    }
}

/// A component that asks for what no policy gets.
fn network(n: u32) -> anyhow::Result<Vec<u8>> {
    let text = format!(
        "(component (import \"wasi:sockets/network@0.2.{n}\" (instance (export \"network\" (type (sub resource))))))"
    );
    Ok(wat::parse_str(text)?)
}

/// Waits for the swap behind `before`.
async fn swapped(admin: &Admin, before: u64) -> anyhow::Result<SwapRecord> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listing = admin.policies().await?;
        if let Some(swap) = listing.swaps.iter().find(|s| s.generation > before && s.outcome == "swapped") {
            return Ok(swap.clone());
        }
        if Instant::now() > deadline {
            bail!("no swap in {PATIENCE:?}: {:?}", listing.swaps.first());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
