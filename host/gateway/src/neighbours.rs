//! How many connections an address has. Knows addresses and counts. Invariant: what is counted in is counted out, and an
//! address without a connection is not known.

use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

/// Bits of an IPv6 address that say whose it is; the rest its owner chooses.
const NETWORK_BITS: u32 = 64;

#[derive(Debug)]
pub(crate) struct Neighbours {
    of_one: usize,
    of_loopback: usize,
    connections: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Neighbour {
    all: Arc<Neighbours>,
    of: IpAddr,
}

// === impl Neighbours ===

impl Neighbours {
    pub(crate) fn new(of_one: usize, of_loopback: usize) -> Self {
        Self { of_one, of_loopback, connections: Mutex::default() }
    }

    /// `None`: this address has as many as it may.
    pub(crate) fn join(self: &Arc<Self>, ip: IpAddr) -> Option<Neighbour> {
        let of = network(ip);
        let max = if of.is_loopback() { self.of_loopback } else { self.of_one };
        let mut connections = self.connections.lock();
        let count = connections.entry(of).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Neighbour { all: Arc::clone(self), of })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let mut connections = self.all.connections.lock();
        let Some(count) = connections.get_mut(&self.of) else { return };
        *count -= 1;
        if *count == 0 {
            connections.remove(&self.of);
        }
    }
}

fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(ip) if !ip.is_loopback() => {
            Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - NETWORK_BITS))).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leaves_room_for_others_and_a_network_is_one_of_them() {
        let neighbours = Arc::new(Neighbours::new(2, 3));
        let join = |ip: &str| neighbours.join(ip.parse().expect("an address"));
        let mut held = vec![join("10.0.0.1").expect("one"), join("10.0.0.1").expect("two")];
        assert!(join("10.0.0.1").is_none());
        held.push(join("10.0.0.2").expect("another one"));
        held.extend([join("2001:db8::1").expect("one"), join("2001:db8::ffff:2").expect("of the same network")]);
        assert!(join("2001:db8::3").is_none());
        held.push(join("2001:db8:0:1::1").expect("another network"));
        held.extend((0..3).map(|_| join("::1").expect("this machine")));
        assert!(join("::1").is_none());
        held.push(join("127.0.0.1").expect("its other address"));
        drop(held.remove(0));
        held.push(join("10.0.0.1").expect("given back"));
        held.clear();
        assert!(neighbours.connections.lock().is_empty());
    }
}
