//! What `run` takes about orders after their verdicts.

use std::time::Duration;

use clap::Args;
use shared::devstack::gateway::Behaviour;

use crate::orders::plan::{Plan, Share};

const CRASHES_MAX: i64 = 1_000;
/// The longest hold, and the longest that the gateway may think.
const TIME_MAX: Duration = Duration::from_secs(3_600);

/// What becomes of orders after their verdict. With any of the first three, the functions release, payment and relay are
/// started beside the workers, with a payment gateway, and the audit covers it all.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Orders after their verdict")]
pub struct OrderOptions {
    /// Of the buyers who get units: how many pay at once, such as 50%.
    #[arg(long, value_name = "PERCENT")]
    pub pay_share: Option<Share>,
    /// How many cancel at once. The rest let their hold run out.
    #[arg(long, value_name = "PERCENT")]
    pub cancel_share: Option<Share>,
    /// How long an order holds its units, such as 2s, 500ms or 1m; the run then lasts until the last hold has ended [default:
    /// longer than the sale].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub hold: Option<Duration>,
    /// Of the payment methods: how many the gateway declines.
    #[arg(long, value_name = "PERCENT", default_value_t)]
    pub decline_share: Share,
    /// Of the gateway's answers: how many are spoilt, as a 500 or a connection that is cut, before or after the money was
    /// taken.
    #[arg(long, value_name = "PERCENT", default_value_t)]
    pub gateway_failure_share: Share,
    /// How long the gateway thinks.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = parse_time)]
    pub gateway_latency: Duration,
    /// Run the same sale first without any of this, on the same servers, and report the ratio of the purchases per second.
    #[arg(long)]
    pub with_quiet: bool,
    /// Kill (SIGKILL) a worker of any function this often, at random moments of the run, chosen by the seed, and start another
    /// one at once. Goes with --rate.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=CRASHES_MAX))]
    pub crashes: u32,
    /// After the sale: show how its winner pays, and how a hold runs out and its unit is sold to the next buyer. Not where the
    /// sale itself has a life.
    #[arg(long)]
    pub show_life: bool,
}

impl OrderOptions {
    /// What buyers do with their units; `None` where they do nothing.
    pub fn plan(&self, seed: u64) -> Option<Plan> {
        let is_wanted = self.pay_share.is_some() || self.cancel_share.is_some() || self.hold.is_some();
        is_wanted.then(|| self.all(seed))
    }

    pub fn gateway(&self, seed: u64) -> Behaviour {
        self.all(seed).gateway()
    }

    fn all(&self, seed: u64) -> Plan {
        Plan {
            pay: self.pay_share.unwrap_or_default(),
            cancel: self.cancel_share.unwrap_or_default(),
            hold: self.hold,
            decline: self.decline_share,
            gateway_failure: self.gateway_failure_share,
            gateway_latency: self.gateway_latency,
            seed,
        }
    }

    pub(super) fn conflict(&self, rate: f64) -> Option<&'static str> {
        let Plan { pay, cancel, .. } = self.all(0);
        if pay.percent() + cancel.percent() > 100 {
            return Some("--pay-share and --cancel-share together are more than all buyers");
        }
        if self.crashes > 0 && rate == 0.0 {
            return Some("--crashes goes with --rate: a sale that is sent at once is over before most of them");
        }
        if self.with_quiet && self.plan(0).is_none() {
            return Some("--with-quiet compares with a sale that has --pay-share, --cancel-share or --hold");
        }
        None
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
    let time = units.into_iter().find_map(|(unit, ms)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_millis(number.checked_mul(ms)?))
    });
    let allowed = time.filter(|time| (Duration::from_millis(1)..=TIME_MAX).contains(time));
    allowed.ok_or_else(|| "a time is 1ms to 60m, such as 500ms, 2s or 1m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::run;

    fn orders(arguments: &[&str]) -> Result<OrderOptions, String> {
        run(arguments).map(|options| options.orders).map_err(|error| error.to_string())
    }

    #[test]
    fn orders_go_on_where_one_of_three_options_says_so() {
        assert_eq!(orders(&[]).unwrap().plan(7), None);
        assert_eq!(orders(&["--crashes=3", "--rate=10"]).unwrap().plan(7), None);
        let plan = orders(&["--pay-share", "50%", "--cancel-share=10%", "--hold=2s"]).unwrap().plan(7).unwrap();
        assert_eq!((plan.pay.percent(), plan.cancel.percent(), plan.seed), (50, 10, 7));
        assert_eq!(plan.hold, Some(Duration::from_secs(2)));
        assert!(orders(&["--hold=500ms"]).unwrap().plan(7).is_some_and(|plan| plan.pay == Share::default()));
    }

    #[test]
    fn a_time_has_a_unit_and_bounds() {
        for (text, ms) in [("1ms", 1), ("2s", 2_000), ("60m", 3_600_000)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)));
        }
        for wrong in ["", "5", "ms", "0s", "61m", "-1s", "1.5s", "1h"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_no_order_can_do_is_refused() {
        for (wrong, why) in [
            (&["--pay-share=60%", "--cancel-share=41%"][..], "more than all"),
            (&["--crashes=3"], "--rate"),
            (&["--with-quiet"], "--hold"),
            (&["--pay-share=101%"], "0% to 100%"),
        ] {
            let error = orders(wrong).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
