//! Many events: counted, not timed. The harness checks every sequence.

use crate::harness::Session;
use tidegate_proto::v1::{SubscribeBulk, UnAdvise, command::Method};

#[tokio::test]
async fn half_a_million_a_second_come_dense_and_evenly() {
    const EVENTS: u64 = 100_000;
    let mut s = Session::start("rate=500000").await;
    let definitions = (0..100).map(|n| format!("Area{n}.Walk")).collect();
    s.done(Method::SubscribeBulk(SubscribeBulk { server_handle: 1, definitions, supervisory: false })).await;
    let mut counts = [0u64; 101];
    while s.head < EVENTS {
        s.frame().await.unwrap();
        for event in s.events.drain(..) {
            counts[event.item_key as usize] += 1;
        }
    }
    let (least, most) = (counts[1..].iter().min().unwrap(), counts[1..].iter().max().unwrap());
    assert!(most - least <= 1, "in turn: {least} to {most}");
}

#[tokio::test]
async fn a_gateway_that_reads_late_loses_nothing() {
    let mut s = Session::start("rate=500000").await;
    let item = s.subscribe("A.Counter").await;
    s.change(item).await;
    // More than pipe and frames ahead can hold has to be made before this is taken up; none of it is lost.
    let id = s.ask(Method::UnAdvise(UnAdvise { server_handle: 1, item_handle: item.handle })).await;
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    s.answer(id).await;
    let made = s.head;
    let witness = s.subscribe("B.Counter").await;
    s.change(witness).await;
    assert!(s.head > made, "and it goes on");
}
