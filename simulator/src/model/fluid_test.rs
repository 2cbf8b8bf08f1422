//! The fluid model against closed forms and brute force.

use futures::future::join_all;
use proptest::prelude::*;

use super::clock::{Clock, SECOND, run};
use super::fluid::{Class, Fluid};

fn assert_close(measured: u64, exact_s: f64) {
    #[expect(clippy::cast_precision_loss, reason = "a test of a few hundred seconds")]
    let measured = measured as f64 * 1e-9;
    assert!((measured - exact_s).abs() < 1e-6, "{measured} s, exactly {exact_s} s");
}

/// Runs all flows at once from time 0 and gives each one's end.
fn ends(clock: &Clock, fluid: &Fluid, flows: &[(Class, f64)]) -> Vec<u64> {
    let flow = |&(class, amount): &(Class, f64)| async move {
        fluid.flow(class, amount).await;
        clock.now()
    };
    run(clock, join_all(flows.iter().map(flow))).unwrap()
}

#[test]
fn equal_flows_share_a_link() {
    let clock = Clock::default();
    let fluid = Fluid::new(&clock);
    let link = fluid.link(1000.0);
    let class = fluid.class(&[link], f64::INFINITY, 1.0);
    let ends = ends(&clock, &fluid, &[(class, 1000.0), (class, 2000.0), (class, 3000.0)]);
    for (end, exact) in ends.into_iter().zip([3.0, 5.0, 6.0]) {
        assert_close(end, exact);
    }
    assert!((fluid.usage(link).total() - 6000.0).abs() < 1e-3);
}

#[test]
fn cores_run_each_job_at_no_more_than_one_core() {
    let clock = Clock::default();
    let fluid = Fluid::new(&clock);
    let cores = fluid.link(2.0);
    let class = fluid.class(&[cores], 1.0, 1.0);
    assert_close(ends(&clock, &fluid, &[(class, 1.0)])[0], 1.0);
    let start = clock.now();
    let three = ends(&clock, &fluid, &[(class, 2.0), (class, 2.0), (class, 2.0)]);
    assert_close(three[2] - start, 3.0);
}

#[test]
fn the_tightest_link_limits_and_leaves_the_rest_to_others() {
    let clock = Clock::default();
    let fluid = Fluid::new(&clock);
    let (narrow, server) = (fluid.link(10.0), fluid.link(100.0));
    let slow = fluid.class(&[narrow, server], f64::INFINITY, 1.0);
    let wide = fluid.link(1000.0);
    let fast = fluid.class(&[wide, server], f64::INFINITY, 1.0);
    let ends = ends(&clock, &fluid, &[(slow, 100.0), (fast, 900.0)]);
    assert_close(ends[0], 10.0);
    assert_close(ends[1], 10.0);
}

#[test]
fn weights_divide_a_link() {
    let clock = Clock::default();
    let fluid = Fluid::new(&clock);
    let link = fluid.link(40.0);
    let one = fluid.class(&[link], f64::INFINITY, 1.0);
    let three = fluid.class(&[link], f64::INFINITY, 3.0);
    let ends = ends(&clock, &fluid, &[(one, 10.0), (three, 30.0)]);
    assert_close(ends[0], 1.0);
    assert_close(ends[1], 1.0);
}

#[test]
fn a_stopped_link_goes_on_when_it_is_opened() {
    let clock = Clock::default();
    let fluid = Fluid::new(&clock);
    let link = fluid.link(10.0);
    let class = fluid.class(&[link], f64::INFINITY, 1.0);
    let outage = async {
        clock.sleep(SECOND).await;
        fluid.set_capacity(link, 0.0);
        clock.sleep(5 * SECOND).await;
        fluid.set_capacity(link, 5.0);
    };
    run(&clock, async { futures::join!(fluid.flow(class, 20.0), outage) }).unwrap();
    assert_close(clock.now(), 1.0 + 5.0 + 2.0);
}

#[test]
fn a_dropped_flow_gives_its_share_back() {
    let clock = Clock::default();
    let fluid = Fluid::new(&clock);
    let link = fluid.link(10.0);
    let class = fluid.class(&[link], f64::INFINITY, 1.0);
    let short = async {
        let long = std::pin::pin!(fluid.flow(class, 1000.0));
        futures::future::select(long, std::pin::pin!(clock.sleep(SECOND))).await;
    };
    run(&clock, async { futures::join!(short, fluid.flow(class, 15.0)) }).unwrap();
    assert_close(clock.now(), 2.0);
}

#[test]
fn a_closed_loop_of_a_thousand_clients_takes_bytes_over_bandwidth() {
    let clock = Clock::default();
    let fluid = Fluid::new(&clock);
    let link = fluid.link(625e6);
    let class = fluid.class(&[link], f64::INFINITY, 1.0);
    let client = |_| async {
        for _ in 0..20 {
            fluid.flow(class, 1_048_576.0).await;
        }
    };
    run(&clock, join_all((0..1000).map(client))).unwrap();
    assert_close(clock.now(), 20.0 * 1000.0 * 1_048_576.0 / 625e6);
}

/// Sizes over one link at once: the k-th smallest ends when all others have had as much.
fn closed_form(capacity: f64, amounts: &[f64]) -> Vec<f64> {
    let end = |mine: &f64| amounts.iter().map(|amount| amount.min(*mine)).sum::<f64>() / capacity;
    amounts.iter().map(end).collect()
}

proptest! {
    #[test]
    fn one_link_meets_the_closed_form(amounts in prop::collection::vec(1.0..1e8f64, 1..60)) {
        let clock = Clock::default();
        let fluid = Fluid::new(&clock);
        let link = fluid.link(1e6);
        let class = fluid.class(&[link], f64::INFINITY, 1.0);
        let flows: Vec<_> = amounts.iter().map(|&amount| (class, amount)).collect();
        for (end, exact) in ends(&clock, &fluid, &flows).into_iter().zip(closed_form(1e6, &amounts)) {
            assert_close(end, exact);
        }
    }

    #[test]
    fn no_link_carries_more_than_it_can_and_a_bottleneck_is_full(
        nics in prop::collection::vec(1.0..100.0f64, 1..8), server in 1.0..300.0f64,
    ) {
        let clock = Clock::default();
        let fluid = Fluid::new(&clock);
        let server_link = fluid.link(server);
        let flows: Vec<_> = nics.iter().map(|&nic| {
            let link = fluid.link(nic);
            (fluid.class(&[link, server_link], f64::INFINITY, 1.0), nic * 10.0)
        }).collect();
        let last = ends(&clock, &fluid, &flows).into_iter().max().unwrap_or(0);
        let total: f64 = nics.iter().sum::<f64>() * 10.0;
        // Every flow needs 10 s alone; together they need the server's time.
        assert!(last >= nanos(f64::max(10.0, total / server)) - 1000);
        if nics.iter().sum::<f64>() <= server {
            assert_close(last, 10.0);
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds")]
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
