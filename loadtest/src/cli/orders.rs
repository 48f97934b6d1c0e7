//! What `run` takes about orders after their verdicts.

use crate::orders::plan::Plan;
use clap::Args;

const CRASHES_MAX: i64 = 1_000;

/// What becomes of orders after their verdict. With any of the first three, the functions release, payment and relay are
/// started beside the workers, with a payment gateway, and the audit covers it all.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Orders after their verdict")]
pub struct OrderOptions {
    #[command(flatten)]
    pub plan: Plan,
    /// Run the same sale first without any of this, on the same servers, and report the ratio of the purchases per second.
    #[arg(long)]
    pub with_quiet: bool,
    /// Kill (SIGKILL) a worker of any function this often, at random moments of the run, and start another one at once: short
    /// for --faults N --fault-kinds kill.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=CRASHES_MAX))]
    pub crashes: u32,
    /// After the sale: show how its winner pays, and how a hold runs out and its unit is sold to the next buyer. Not where the
    /// sale itself has a life.
    #[arg(long)]
    pub show_life: bool,
}

impl OrderOptions {
    pub(super) fn conflict(&self) -> Option<&'static str> {
        if self.plan.percents().1 > 100 {
            return Some("--pay-share and --cancel-share together are more than all buyers");
        }
        if self.with_quiet && self.plan.with_seed(0).is_none() {
            return Some("--with-quiet compares with a sale that has --pay-share, --cancel-share or --hold");
        }
        None
    }
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
        let plan = |arguments: &[&str]| {
            let plan = orders(arguments).unwrap().plan.with_seed(7)?;
            Some((plan.pay_share?.percent(), plan.cancel_share?.percent(), plan.hold_ms, plan.seed))
        };
        assert_eq!(plan(&["--crashes=3", "--rate=10", "--decline-share=1%"]), None);
        assert_eq!(plan(&["--pay-share", "50%", "--cancel-share=10%", "--hold=2s"]), Some((50, 10, Some(2_000), 7)));
        for one in ["--pay-share=0%", "--cancel-share=0%"] {
            assert_eq!(plan(&[one]), Some((0, 0, None, 7)));
        }
        assert_eq!(plan(&["--hold=500ms"]), Some((0, 0, Some(500), 7)));
    }

    #[test]
    fn what_no_order_can_do_is_refused() {
        for (wrong, why) in [
            (&["--pay-share=60%", "--cancel-share=41%"][..], "more than all"),
            (&["--crashes=3"], "--rate"),
            (&["--with-quiet"], "--hold"),
            (&["--with-quiet", "--hold=1s", "--workers=0"], "leave --workers 0 away"),
            (&["--show-life", "--workers=0"], "leave --workers 0 away"),
            (&["--pay-share=101%"], "0% to 100%"),
        ] {
            let error = orders(wrong).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
