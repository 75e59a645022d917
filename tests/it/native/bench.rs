//! What it costs. Run by name with an optimised helper; the bounds here are generous, because the
//! tests run beside each other: they catch what became ten times as slow.

use std::time::{Duration, Instant};

use bottle::backend::{Backend, Depth, ExecSpec};
use bytes::Bytes;

use super::support::{Corner, machine};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_quick() {
    let corner = Corner::new();
    // Makes what sandboxes share.
    let first = corner.run(&machine("first")).await;
    let (mut ready, mut execs, mut downs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..20 {
        let began = Instant::now();
        let on = corner.run(&machine("ada")).await;
        ready.push(began.elapsed());
        let began = Instant::now();
        let spec = ExecSpec::new(["true"]);
        corner.backend.exec(&corner.scope, &on, &spec, Bytes::new()).await.unwrap();
        execs.push(began.elapsed());
        let began = Instant::now();
        corner.teardown(&on).await;
        downs.push(began.elapsed());
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", corner.init(&first))).unwrap();
    let rss: Vec<&str> =
        status.lines().filter(|line| line.contains("Rss") || line.contains("VmRSS")).collect();
    let (ready, execs, downs) = (median(ready), median(execs), median(downs));
    println!("ready {ready:?}, exec {execs:?}, down {downs:?}, {rss:?}");
    let began = Instant::now();
    let names: Vec<String> = (0..100).map(|n| format!("many{n}")).collect();
    let corner = &corner;
    futures_util::StreamExt::for_each_concurrent(
        futures_util::stream::iter(&names),
        4,
        |name| async move {
            corner.run(&machine(name)).await;
        },
    )
    .await;
    let hundred = began.elapsed();
    let began = Instant::now();
    assert_eq!(corner.observe(Depth::Listing).await.len(), 101);
    println!("100 sandboxes in {hundred:?}; observed in {:?}", began.elapsed());
    assert!(ready < Duration::from_millis(500), "{ready:?}");
    assert!(execs < Duration::from_millis(300), "{execs:?}");
    let everyone = corner.observe(Depth::Listing).await;
    futures_util::StreamExt::for_each_concurrent(
        futures_util::stream::iter(&everyone),
        4,
        |on| async move {
            corner.teardown(on).await;
        },
    )
    .await;
    corner.wipe().await;
}
