//! What an endpoint takes of memory, without its connection.

use tower::ServiceExt;
use tower_roster::balance::BalanceLayer;

use super::{
    cluster,
    measure::{Effort, Samples, here},
    report::{Bar, Row},
};

const SIZE: usize = 10_000;

/// All that is allocated for a balancer and what discovery said, its instances included.
pub fn run(_: Effort) -> Vec<Row> {
    let runtime = here();
    let mut kept = None;
    let counted = allocation_counter::measure(|| {
        kept = Some(runtime.block_on(async {
            let endpoints = (0..SIZE).map(|index| cluster::endpoint(index, 1));
            let mut balance = BalanceLayer::new().balance(cluster::listed(endpoints));
            balance.ready().await.expect("endpoints");
            balance
        }));
    });
    drop(kept);
    let bytes = Samples(vec![counted.bytes_current as f64 / SIZE as f64]);
    vec![Row::new("memory of an endpoint, of 10,000", "B", &bytes).bar(Bar::Limit(1_024.0))]
}
