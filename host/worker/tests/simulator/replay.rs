//! Replay of a history: every row, in file order, bit for bit.

use crate::harness::Session;
use std::{
    fs,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tidegate_proto::{
    v1::{SourceTime, event::Body, source_time::Form, value::Kind},
    worker::v1::Accept,
};

const TAG: &str = "Area1.Machine1.Temperature";

/// Readings five minutes apart, with repeated times and one step back, as real ones have.
fn history(rows: usize) -> Vec<(String, String, i32)> {
    (0..rows)
        .map(|n| {
            let minute = match n {
                0..=9 => n * 5,
                // The clock is set back by an hour, and some times come twice.
                _ => (n / 2 * 5).saturating_sub(60),
            };
            let time = format!("2013-12-{:02}T{:02}:{:02}:00Z", 1 + minute / 1_440 % 28, minute / 60 % 24, minute % 60);
            let number = (n as f64 * 0.1).sin() * 1e-3 + 73.967_322 / (1.0 + n as f64);
            (time, number.to_string(), if n % 7 == 0 { 64 } else { 192 })
        })
        .collect()
}

fn write(rows: &[(String, String, i32)]) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.csv");
    let lines = rows.iter().map(|(time, number, quality)| format!("{time},{TAG},{number},{quality}\n"));
    fs::write(&path, "timestamp,tag,value,quality\n".to_owned() + &lines.collect::<String>()).unwrap();
    (folder, path.display().to_string())
}

async fn expect(s: &mut Session, item: crate::harness::Item, rows: &[(String, String, i32)]) {
    for (time, number, quality) in rows {
        let event = s.event(item).await;
        let Some(Body::DataChange(change)) = event.body else { panic!("{event:?}") };
        let Some(Kind::Double(read)) = change.value.and_then(|value| value.kind) else { panic!() };
        assert_eq!(read.to_bits(), number.parse::<f64>().unwrap().to_bits());
        assert_eq!(change.quality, *quality);
        assert_eq!(change.time, Some(SourceTime { form: Some(Form::Text(time.clone())) }));
    }
}

// shows: S-17
#[tokio::test]
async fn every_reading_comes_bit_for_bit_in_file_order() {
    let rows = history(5_000);
    assert!(rows.windows(2).any(|pair| pair[0].0 == pair[1].0), "a time comes twice");
    assert!(rows.windows(2).any(|pair| pair[0].0 > pair[1].0), "a time steps back");
    let (_folder, path) = write(&rows);
    let mut s = Session::start(&format!("csv={path}")).await;
    let state = s.subscribe("$Sim.Replay").await;
    assert_eq!(s.change(state).await.0, Some(Kind::Text("waiting".to_owned())));
    let item = s.subscribe(TAG).await;
    expect(&mut s, item, &rows).await;
    assert_eq!(s.change(state).await.0, Some(Kind::Text("running".to_owned())));
    assert_eq!(s.change(state).await.0, Some(Kind::Text("done".to_owned())));
    assert!(s.events.is_empty(), "nothing but the readings");
}

#[tokio::test]
async fn a_rate_and_a_speed_hold_rows_back_without_losing_any() {
    let rows = history(40);
    let (_folder, path) = write(&rows);
    let mut s = Session::start(&format!("csv={path},rate=400")).await;
    let before = Instant::now();
    let item = s.subscribe(TAG).await;
    expect(&mut s, item, &rows).await;
    assert!(before.elapsed() >= Duration::from_millis(95));

    // 45 minutes to the tenth reading; a step back and equal times wait for nothing.
    let mut s = Session::start(&format!("csv={path},speed=30000")).await;
    let before = Instant::now();
    let item = s.subscribe(TAG).await;
    expect(&mut s, item, &rows[..10]).await;
    assert!(before.elapsed() >= Duration::from_millis(85));
    expect(&mut s, item, &rows[10..]).await;
}

#[tokio::test]
async fn a_replay_on_hold_waits_for_its_start() {
    let rows = history(20);
    let (_folder, path) = write(&rows);
    let mut s = Session::start(&format!("csv={path},hold=true,rate=0")).await;
    let (late, item) = (s.add(TAG).await, s.subscribe(TAG).await);
    let control = s.add("$Sim.Replay").await;
    let witness = s.subscribe("A.Counter").await;
    s.change(witness).await;
    assert!(s.events.is_empty(), "no row has come");
    s.order(control, "start").await;
    expect(&mut s, item, &rows).await;
    s.advise(late).await;
    expect(&mut s, late, &rows[19..]).await;
    assert!(s.events.is_empty(), "an item advised later sees where the tag stands, and no row again");
}

#[tokio::test]
async fn a_bad_row_is_named_in_goodbye_by_file_and_line() {
    let mut rows = history(20);
    rows[7].2 = 999;
    let (_folder, path) = write(&rows);
    let mut s = Session::accept(Accept { settings: format!("csv={path}"), ..Accept::default() }).await;
    let reason = s.goodbye().await;
    assert!(reason.contains("history.csv, line 9: the quality"), "{reason}");
    assert!(s.ended().await.is_err());
    let mut s = Session::accept(Accept { settings: format!("csv={path}.not"), ..Accept::default() }).await;
    assert!(s.goodbye().await.contains("cannot be read"));
}
