//! A private Redis: what it has after it was killed is for whoever killed it to say.

use super::is_running;
use shared::devstack::{Folder, Redis, Servers};
use std::sync::Arc;

#[tokio::test]
async fn a_killed_redis_starts_empty_or_with_the_last_snapshot_at_the_same_address() {
    let folder = Arc::new(Folder::create().unwrap());
    let mut redis = Redis::start(&folder).await.unwrap();
    let (url, pid) = (redis.url(), redis.pid());
    set(&url, "before any snapshot").await;
    redis.kill_and_restart().await.unwrap();
    assert!(redis.pid() != pid && redis.url() == url);
    assert_eq!(get(&url).await, None);

    set(&url, "in the snapshot").await;
    redis.save().await.unwrap();
    set(&url, "after the snapshot").await;
    redis.kill_and_restart().await.unwrap();
    assert_eq!(get(&url).await.as_deref(), Some("in the snapshot"));

    assert!(redis.version().contains(char::is_numeric), "{}", redis.version());
    redis.stop().await.unwrap();
    Arc::into_inner(folder).unwrap().remove().await.unwrap();
}

#[tokio::test]
async fn servers_have_a_redis_only_when_asked_for_it_and_take_it_along_when_they_stop() {
    let mut servers = Servers::start(&[]).await.unwrap();
    assert!(servers.redis.is_none());
    let pid = servers.start_redis().await.unwrap().pid();
    assert_eq!(servers.start_redis().await.unwrap().pid(), pid, "one is enough");
    set(&servers.redis.as_ref().unwrap().url(), "served").await;
    servers.stop().await.unwrap();
    assert!(!is_running(pid));
}

async fn set(url: &str, value: &str) {
    redis::cmd("SET").arg("key").arg(value).exec_async(&mut connect(url).await).await.unwrap();
}

async fn get(url: &str) -> Option<String> {
    redis::cmd("GET").arg("key").query_async(&mut connect(url).await).await.unwrap()
}

async fn connect(url: &str) -> redis::aio::MultiplexedConnection {
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}
