//! The nodes of a private broker, one of which can be killed in mid-sale: the one whose death matters most.
//!
//! Invariant: who leads which partition is asked before the sale is open, as asking takes seconds; leaders do not move
//! before a node dies.

use std::collections::HashMap;

use anyhow::Context;
use shared::devstack::RabbitMq;

use crate::failure::Failure;
use crate::probe::Probe;

/// The nodes, and who leads what.
#[derive(Debug)]
pub struct Cluster<'a> {
    rabbitmq: &'a mut RabbitMq,
    amqp_url: String,
    /// By the queue's name.
    leaders: HashMap<String, String>,
}

impl<'a> Cluster<'a> {
    /// Asks who leads the queues of the virtual host, which are there already.
    ///
    /// # Errors
    /// The broker does not say.
    pub async fn of(rabbitmq: &'a mut RabbitMq, vhost: &str) -> Result<Self, Failure> {
        let leaders = rabbitmq.leaders(vhost).await.map_err(Failure::Broken)?;
        Ok(Self { amqp_url: rabbitmq.url(vhost), rabbitmq, leaders })
    }

    /// Kills (SIGKILL) the node that leads what most requests wait in, and returns its name.
    ///
    /// # Errors
    /// The broker is away, or the node does not die.
    pub async fn kill_node(&mut self) -> Result<String, Failure> {
        let probe = Probe::connect(&self.amqp_url).await?;
        let depths = probe.depths().await?;
        probe.close().await;
        let node = busiest(&self.leaders, &depths).context("no node leads a partition").map_err(Failure::Broken)?;
        self.rabbitmq.kill_node(&node).await.map_err(Failure::Broken)?;
        Ok(node)
    }
}

/// The node that leads the partitions in which most requests wait; of several such, the one that leads more of them.
fn busiest(leaders: &HashMap<String, String>, depths: &[(String, u64)]) -> Option<String> {
    let mut loads: HashMap<&str, (u64, usize)> = HashMap::new();
    for (partition, depth) in depths {
        if let Some(leader) = leaders.get(partition) {
            let load = loads.entry(leader).or_default();
            *load = (load.0 + depth, load.1 + 1);
        }
    }
    let busiest = loads.into_iter().max_by_key(|(node, load)| (*load, *node));
    busiest.map(|(node, _)| node.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busiest_of(leaders: &[(&str, &str)], depths: &[(&str, u64)]) -> Option<String> {
        let leaders = leaders.iter().map(|(queue, node)| ((*queue).to_owned(), (*node).to_owned())).collect();
        let depths: Vec<_> = depths.iter().map(|(queue, depth)| ((*queue).to_owned(), *depth)).collect();
        busiest(&leaders, &depths)
    }

    #[test]
    fn the_node_that_most_requests_wait_for_is_the_one() {
        let leaders = [("p.0", "one"), ("p.1", "one"), ("p.2", "two"), ("dead", "three")];
        assert_eq!(busiest_of(&leaders, &[("p.0", 10), ("p.1", 10), ("p.2", 21)]).as_deref(), Some("two"));
        assert_eq!(busiest_of(&leaders, &[("p.0", 11), ("p.1", 11), ("p.2", 21)]).as_deref(), Some("one"));
    }

    #[test]
    fn where_nothing_waits_it_is_the_node_that_leads_most() {
        let leaders = [("p.0", "one"), ("p.1", "one"), ("p.2", "two")];
        assert_eq!(busiest_of(&leaders, &[("p.2", 0), ("p.1", 0), ("p.0", 0)]).as_deref(), Some("one"));
        assert_eq!(busiest_of(&[], &[("p.0", 1)]), None);
    }
}
