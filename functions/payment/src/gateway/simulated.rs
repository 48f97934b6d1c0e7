//! A gateway that moves no money: for demos, tests and measurements.
//!
//! Invariant: the outcome is a function of key and payment method alone, so it needs no memory, and a second process, or
//! the same one after a restart, says the same. (Only where a second method is tried after a capture does it differ from
//! the contract: it may decline. The payment function never does that: a captured order ends paid. And what it is told to
//! void may be captured: it has no money, and nothing to remember.)

use super::{Charge, Gateway, Outcome, Unknown};
use clap::Args;
use futures_util::future::BoxFuture;
use std::time::Duration;
use uuid::Uuid;

/// Names the spaces of what is drawn, and of the charges' ids (UUIDv5).
const DRAW_SPACE: Uuid = Uuid::from_u128(0x9d41_6c0e_17f2_5e83_8b5c_6472_6177_6e00);
const CHARGE_SPACE: Uuid = Uuid::from_u128(0x51b8_03da_c6e4_5f27_a94e_6368_6172_6765);
/// The bits of a draw.
const DRAW_BITS: u32 = 48;

/// How the simulated gateway behaves.
#[derive(Debug, Clone, Copy, PartialEq, Args)]
pub struct SimulatedOptions {
    /// How long the simulated gateway takes for an answer, in milliseconds.
    #[arg(long = "gateway-latency-ms", env = "GATEWAY_LATENCY_MS", default_value_t = 20, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub latency_ms: u64,
    /// The share of payments that the simulated gateway declines, 0 to 1; which ones, order and payment method decide.
    #[arg(long = "gateway-decline-share", env = "GATEWAY_DECLINE_SHARE", default_value_t = 0.0, value_name = "SHARE")]
    #[arg(value_parser = share)]
    pub decline_share: f64,
    /// The share of attempts, 0 to 1, that end in nobody knowing the outcome, as a time-out does; drawn for each.
    #[arg(long = "gateway-failure-share", env = "GATEWAY_FAILURE_SHARE", default_value_t = 0.0, value_name = "SHARE")]
    #[arg(value_parser = share)]
    pub failure_share: f64,
}

/// The simulated gateway.
#[derive(Debug, Clone, Copy)]
pub struct Simulated(pub SimulatedOptions);

impl Simulated {
    /// What it says whenever it says anything.
    fn outcome(&self, charge: &Charge) -> Outcome {
        let key = charge.order_id;
        if draw(&format!("{key}\n{}", charge.payment_method)) < self.0.decline_share {
            return Outcome::Declined { reason: "the simulated gateway declines this one".to_owned() };
        }
        Outcome::Captured { charge_id: Uuid::new_v5(&CHARGE_SPACE, key.as_bytes()).to_string() }
    }

    async fn attempt(&self) -> Result<(), Unknown> {
        tokio::time::sleep(Duration::from_millis(self.0.latency_ms)).await;
        if fastrand::f64() < self.0.failure_share {
            return Err(Unknown::Away("a simulated failure".to_owned()));
        }
        Ok(())
    }
}

impl Gateway for Simulated {
    fn charge<'a>(&'a self, charge: &'a Charge) -> BoxFuture<'a, Result<Outcome, Unknown>> {
        Box::pin(async {
            self.attempt().await?;
            Ok(self.outcome(charge))
        })
    }

    fn void(&self, _order_id: Uuid) -> BoxFuture<'_, Result<Outcome, Unknown>> {
        Box::pin(async {
            self.attempt().await?;
            Ok(Outcome::Voided)
        })
    }

    fn refund(&self, _order_id: Uuid) -> BoxFuture<'_, Result<(), Unknown>> {
        Box::pin(self.attempt())
    }
}

/// A number from 0 up to 1, the same for the same text.
fn draw(text: &str) -> f64 {
    // The top bits: those below hold the UUID's version.
    let bits = Uuid::new_v5(&DRAW_SPACE, text.as_bytes()).as_u128() >> (u128::BITS - DRAW_BITS);
    bits as f64 / (1_u64 << DRAW_BITS) as f64
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        Ok(_) | Err(_) => Err("a share is a number from 0 to 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many orders with this payment method, which ones are declined at this share.
    fn declined(decline_share: f64, orders: u128, method: &str) -> Vec<bool> {
        let simulated = Simulated(SimulatedOptions { latency_ms: 0, decline_share, failure_share: 0.0 });
        let outcome = |order: u128| {
            let (order_id, payment_method) = (Uuid::from_u128(order), method.to_owned());
            simulated.outcome(&Charge { order_id, item: "a".to_owned(), quantity: 1, payment_method })
        };
        (0..orders).map(|order| matches!(outcome(order), Outcome::Declined { .. })).collect()
    }

    #[test]
    fn the_share_is_declined_and_who_asks_again_hears_the_same() {
        let first = declined(0.25, 4_000, "card");
        let count = first.iter().filter(|declined| **declined).count();
        assert!((800..1_200).contains(&count), "{count} of 4,000 at 0.25");
        assert_eq!(declined(0.25, 4_000, "card"), first);
        assert_ne!(declined(0.25, 4_000, "other"), first, "another method is another try");
        assert_eq!((declined(0.0, 100, "card"), declined(1.0, 100, "card")), (vec![false; 100], vec![true; 100]));
        assert!(share("1.1").is_err() && share("NaN").is_err() && share("0.5").is_ok());
    }
}
