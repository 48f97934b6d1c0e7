//! What private nodes are configured by: the files in `rabbitmq/`, and a few lines of their own on top.

use super::{GUEST, node_name};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const RABBITMQ_CONF: &str = include_str!("../../../../rabbitmq/rabbitmq.conf");
/// Names the file that takes its place. `/dev/null` makes a broker with its own defaults, as a managed one is.
const CONF: &str = "TURNSTILE_RABBITMQ_CONF";
const ENABLED_PLUGINS: &str = include_str!("../../../../rabbitmq/enabled_plugins");
/// What a private node has on top of `rabbitmq/rabbitmq.conf`, besides its definitions: a small disk is no reason to
/// hold the publishers of a demo back.
const PRIVATE_CONF: &str = "disk_free_limit.absolute = 50MB\n";
/// The virtual host that every broker has.
const DEFAULT_VHOST: &str = "/";
/// The users of a shop. Their passwords here are their names.
const USERS: &str = include_str!("../../../../rabbitmq/users.json");

/// The files that nodes read when they boot, the same for each: `rabbitmq/` as it stands (or [`CONF`]), and a few lines on top. Nodes that
/// are to be one cluster find one Erlang cookie, and each the first of them.
pub(super) fn write_settings(home: &Path, nodes: usize, vhosts: &[&str]) -> Result<()> {
    let definitions = home.join("definitions.json");
    let mut private = format!("{PRIVATE_CONF}load_definitions = {}\n", definitions.display());
    if nodes > 1 {
        // Whoever boots joins the first node, and the first, which finds nobody but itself in the list, is the cluster.
        private += "cluster_formation.peer_discovery_backend = classic_config\n";
        private += &format!("cluster_formation.classic_config.nodes.1 = {}\n", node_name(0));
    }
    fs::write(home.join("enabled_plugins"), ENABLED_PLUGINS)?;
    let conf = match std::env::var_os(CONF).filter(|path| !path.is_empty()) {
        Some(path) => fs::read(&path).with_context(|| format!("read {} ({CONF})", path.display()))?,
        None => RABBITMQ_CONF.into(),
    };
    fs::write(home.join("rabbitmq.conf"), conf)?;
    fs::create_dir(home.join("conf.d"))?;
    fs::write(home.join("conf.d/private.conf"), private)?;
    fs::write(definitions, users_and_vhosts(vhosts).to_string())?;
    let cookie = home.join(".erlang.cookie");
    fs::write(&cookie, uuid::Uuid::now_v7().simple().to_string())?;
    // Erlang insists that nobody else can read it.
    Ok(fs::set_permissions(cookie, Permissions::from_mode(0o400))?)
}

/// A node that imports definitions creates neither `/` nor guest by itself.
pub(super) fn users_and_vhosts(vhosts: &[&str]) -> Value {
    let others = vhosts.iter().copied().filter(|name| *name != DEFAULT_VHOST);
    let vhosts: Vec<&str> = std::iter::once(DEFAULT_VHOST).chain(others).collect();
    let mut definitions: Value = serde_json::from_str(USERS).expect("users.json is part of this program");
    let list = |value: &mut Value| value.as_array_mut().expect("it is a list").clone();
    let (mut users, rights) = (list(&mut definitions["users"]), list(&mut definitions["permissions"]));
    users.push(json!({"name": GUEST, "tags": ["administrator"]}));
    users.iter_mut().for_each(|user| user["password"] = user["name"].clone());
    let guest = json!({"user": GUEST, "configure": ".*", "write": ".*", "read": ".*"});
    let on = |vhost: &&str| {
        let mut rights: Vec<Value> = rights.iter().chain([&guest]).cloned().collect();
        rights.iter_mut().for_each(|right| right["vhost"] = Value::from(*vhost));
        rights
    };
    json!({
        "users": users,
        "vhosts": vhosts.iter().map(|name| json!({"name": name})).collect::<Value>(),
        "permissions": vhosts.iter().flat_map(on).collect::<Value>(),
    })
}
