//! The files that the nodes of a private broker read when they boot, the same for each: `rabbitmq/` as it stands, and a
//! few lines on top. Nodes that are to be one cluster find one Erlang cookie, and each the first of them.

use crate::devstack::Folder;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const RABBITMQ_CONF: &str = include_str!("../../../../rabbitmq/rabbitmq.conf");
const ENABLED_PLUGINS: &str = include_str!("../../../../rabbitmq/enabled_plugins");

/// What a private node has on top of `rabbitmq/rabbitmq.conf`, besides its definitions: a small disk is no reason to
/// hold the publishers of a demo back.
const PRIVATE_CONF: &str = "disk_free_limit.absolute = 50MB\n";
/// Where nodes listen.
pub(super) const LOOPBACK: &str = "127.0.0.1";
/// The user that clients connect as; the password is the same.
pub(super) const GUEST: &str = "guest";

/// Writes the settings of so many nodes into a folder of their own, and returns that.
pub(super) fn write(folder: &Folder, nodes: usize, vhosts: &[String]) -> Result<PathBuf> {
    let home = folder.subfolder("rabbitmq", None)?;
    let definitions = home.join("definitions.json");
    let private = format!("{PRIVATE_CONF}load_definitions = {}\n{}", definitions.display(), cluster(nodes));
    let users = users_and_vhosts(&[GUEST, &own_user(&home)], vhosts);
    fs::write(home.join("enabled_plugins"), ENABLED_PLUGINS)
        .and_then(|()| fs::write(home.join("rabbitmq.conf"), RABBITMQ_CONF))
        .and_then(|()| fs::create_dir(home.join("conf.d")))
        .and_then(|()| fs::write(home.join("conf.d/private.conf"), private))
        .and_then(|()| fs::write(&definitions, users.to_string()))
        .and_then(|()| write_cookie(&home))
        .with_context(|| format!("write RabbitMQ's settings into {}", home.display()))?;
    Ok(home)
}

/// The name of the node with this number, from 0.
pub(super) fn node_name(number: usize) -> String {
    if number == 0 { "turnstile@localhost".to_owned() } else { format!("turnstile-{}@localhost", number + 1) }
}

/// The user that only these nodes know, named after the private folder, which is unique.
pub(super) fn own_user(home: &Path) -> String {
    let folder = home.parent().and_then(|folder| folder.file_name()).unwrap_or_default();
    format!("owner-{}", folder.to_string_lossy())
}

/// Whoever boots joins the first node, and the first node, which finds nobody but itself in the list, is the cluster.
fn cluster(nodes: usize) -> String {
    if nodes == 1 {
        return String::new();
    }
    let first = node_name(0);
    format!(
        "cluster_formation.peer_discovery_backend = classic_config\ncluster_formation.classic_config.nodes.1 = {first}\n"
    )
}

/// What nodes, and `rabbitmqctl`, know each other by. Erlang insists that nobody else can read it.
fn write_cookie(home: &Path) -> io::Result<()> {
    let file = home.join(".erlang.cookie");
    fs::write(&file, uuid::Uuid::now_v7().simple().to_string())?;
    fs::set_permissions(&file, Permissions::from_mode(0o400))
}

/// A node that imports definitions creates neither `/` nor guest by itself. Each user's name is its password.
fn users_and_vhosts(users: &[&str], vhosts: &[String]) -> Value {
    let user = |name: &&str| json!({"name": name, "password": name, "tags": ["administrator"]});
    let all =
        |user: &str, vhost: &str| json!({"user": user, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"});
    let permissions = users.iter().flat_map(|user| vhosts.iter().map(|vhost| all(user, vhost)));
    json!({
        "users": users.iter().map(user).collect::<Value>(),
        "vhosts": vhosts.iter().map(|name| json!({"name": name})).collect::<Value>(),
        "permissions": permissions.collect::<Value>(),
    })
}
