//! What a function's user may do: as `rabbitmq/users.json` says, tried against the broker.

use super::Error;
use super::connect::{FEW, Nodes, close, connect_with_socket, own_queue};
use super::topology::Topology;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, Event};
use serde::Deserialize;
use std::future::ready;
use std::sync::LazyLock;
use std::time::Duration;

/// Which of the users a function is.
const WORKER: &str = "worker";
const RELAY: &str = "relay";
const WEB: &str = "web";
/// How rights call the exchange that has no name.
const DEFAULT_EXCHANGE: &str = "amq.default";
/// Nothing that is tried is ever routed.
const ROUTING_KEY: &str = "item.opened.nobody";

/// Attempts at one exchange: a channel that the broker closes before the rollback is asked for does not say why.
const ATTEMPTS_MAX: u32 = 3;

/// Who may do what, as RabbitMQ reads it.
#[derive(Debug, Deserialize)]
struct Users {
    permissions: Vec<Rights>,
}

#[derive(Debug, Deserialize)]
struct Rights {
    user: String,
    configure: String,
    write: String,
    read: String,
}

fn user_of(function: &str) -> &'static str {
    [RELAY, WEB].into_iter().find(|user| *user == function).unwrap_or(WORKER)
}

impl Rights {
    fn of(function: &str) -> &'static Self {
        static USERS: LazyLock<Users> = LazyLock::new(|| {
            serde_json::from_str(include_str!("../../../rabbitmq/users.json"))
                .expect("rabbitmq/users.json is part of this program")
        });
        let user = user_of(function);
        USERS.permissions.iter().find(|rights| rights.user == user).expect("users.json has the functions' users")
    }

    /// The exchanges that are written to: those that the pattern names as they are.
    fn exchanges(&self) -> impl Iterator<Item = String> {
        let words = self.write.trim_start_matches("^(").trim_end_matches(")$").split('|');
        let is_exchange = |word: &String| Topology::read().exchanges.iter().any(|exchange| exchange.name == *word);
        words.map(|word| word.replace('\\', "")).filter(move |word| word == DEFAULT_EXCHANGE || is_exchange(word))
    }
}

/// Configure, write, read: what a function's user is to be given. `set_permissions` takes away what it does not name, and a user
/// with a name of its own may be the workers', the relay's and the door's at once: it gets what all need.
fn patterns(function: &str, user: &str) -> [String; 3] {
    let functions = if user == user_of(function) { &[function][..] } else { &[WORKER, RELAY, WEB] };
    // A reply queue has its user's name in it.
    let of_user = |pattern: &str| pattern.replace("\\.web\\.", &format!("\\.{}\\.", user.replace('.', "\\.")));
    let pattern = |part: fn(&Rights) -> &str| {
        functions.iter().map(|name| of_user(part(Rights::of(name)))).collect::<Vec<_>>().join("|")
    };
    [pattern(|rights| &rights.configure), pattern(|rights| &rights.write), pattern(|rights| &rights.read)]
}

/// Says by which command our user gets all that this function needs, where the broker did not let it.
pub fn explain_grant(error: Error, nodes: &Nodes, function: &str) -> Error {
    let Error::NotAllowed(reason) = error else { return error };
    let (vhost, user) = (nodes.vhost(), nodes.user());
    let [configure, write, read] = patterns(function, user);
    Error::NotAllowed(format!(
        "{reason}; `rabbitmqctl set_permissions -p '{vhost}' '{user}' '{configure}' '{write}' '{read}'` gives it all that it needs, \
         in place of all that it has"
    ))
}

/// Whether the broker says that a user has not the right: not what it says in the same way of a queue that is somebody's alone.
pub fn is_lacking_right(error: &Error) -> bool {
    matches!(error, Error::NotAllowed(reason) if reason.contains(" access to ") && reason.contains("refused for user"))
}

/// Tries what a function has to be able to do, as far as that leaves no trace; [`Error::NotAllowed`] names all that it may not.
/// To read from a queue is not tried: that would take messages out of it.
pub fn try_rights<'a>(nodes: &'a Nodes, name: &'a str, function: &'a str) -> BoxFuture<'a, Result<(), Error>> {
    Box::pin(async move {
        let (connection, socket) = connect_with_socket(nodes, name).await?;
        let is_blocked = |event: &Event| ready(matches!(event, Event::ConnectionBlocked(_)));
        let mut blocked = connection.events_listener().filter(is_blocked);
        let limit = Duration::from_secs(super::ANSWER_SECONDS_MAX);
        let tried = tokio::select! {
            tried = tokio::time::timeout(limit, try_each(&connection, nodes, function)) => tried.ok(),
            Some(_) = blocked.next() => None,
        };
        let Some(refused) = tried.transpose()? else {
            // A function that only takes in and answers is at work even then. A close would not be read, either.
            socket.cut();
            tracing::warn!(
                "our user's rights are not tried: the broker takes nothing at present, being short of memory or disk"
            );
            return Ok(());
        };
        drop(close(&connection).await);
        match refused.is_empty() {
            true => Ok(()),
            false => Err(explain_grant(Error::NotAllowed(refused.join("; ")), nodes, function)),
        }
    })
}

/// What is refused, in the broker's words.
async fn try_each(connection: &Connection, nodes: &Nodes, function: &str) -> Result<Vec<String>, Error> {
    let (workers, mut refused) = (Topology::read().workers_of(function), Vec::new());
    let mut note = |tried| match tried {
        Err(Error::NotAllowed(reason)) => {
            refused.push(reason);
            Ok(())
        }
        // What is not there is declared, or named, by who looks after the topology.
        Ok(()) | Err(Error::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    };
    for exchange in Rights::of(function).exchanges() {
        let is_of_others = exchange.ends_with(".workers") && Some(&exchange) != workers.as_ref();
        if !is_of_others {
            let mut tried = publish_to_nobody(connection, &exchange, nodes.user()).await;
            for _ in 1..ATTEMPTS_MAX {
                if let Err(error @ Error::Lost(_)) = &tried {
                    if nodes.learns_user(error) {
                        let user = nodes.user();
                        tracing::info!(user, "the broker calls our user so, not as AMQP_URL does; messages name it so");
                    }
                    tried = publish_to_nobody(connection, &exchange, nodes.user()).await;
                }
            }
            note(tried)?;
        }
    }
    if let Some(workers) = workers {
        note(own_queue(&connection.create_channel().await?, "", FEW, Some(&workers)).await.map(drop))?;
    }
    Ok(refused)
}

/// In a transaction that comes to nothing. To be told no costs the channel.
async fn publish_to_nobody(connection: &Connection, exchange: &str, user: &str) -> Result<(), Error> {
    let exchange = if exchange == DEFAULT_EXCHANGE { "" } else { exchange };
    let channel = connection.create_channel().await?;
    channel.tx_select().await?;
    // In our own name, as most of ours are: who is called otherwise is told so here.
    let (options, ours) = (BasicPublishOptions::default(), BasicProperties::default().with_user_id(user.into()));
    channel.basic_publish(exchange.into(), ROUTING_KEY.into(), options, b"", ours).await?;
    channel.tx_rollback().await?;
    Ok(channel.close(200, "done".into()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_is_what_the_shipped_users_may_write_to() {
        let tried = |function: &str| Rights::of(function).exchanges().collect::<Vec<_>>();
        assert_eq!(
            tried("purchase"),
            ["purchase", "purchase.workers", "payment", "release", "restock", "dead", "amq.default"]
        );
        assert_eq!(tried("relay"), ["events", "amq.default"]);
        assert_eq!(tried("web"), ["purchase", "payment", "release"]);
    }

    #[test]
    fn a_user_that_may_be_the_workers_the_relays_and_the_doors_is_given_what_all_need() {
        let (worker, relay, web) = (Rights::of("payment"), Rights::of("relay"), Rights::of("web"));
        assert_eq!(patterns("payment", "worker"), [&worker.configure, &worker.write, &worker.read].map(Clone::clone));
        for function in ["payment", "relay", "web"] {
            let [configure, write, read] = patterns(function, "turn.stile");
            let of_user = |pattern: &str| pattern.replace(r"\.web\.", r"\.turn\.stile\.");
            assert!(configure.contains(r"|reply\.turn\.stile\.[^.]+)$"), "{configure}");
            assert_eq!(configure, format!("{}|{}|{}", worker.configure, relay.configure, of_user(&web.configure)));
            assert_eq!(write, format!("{}|{}|{}", worker.write, relay.write, web.write));
            assert_eq!(read, format!("{}|{}|{}", worker.read, relay.read, of_user(&web.read)));
        }
    }
}
