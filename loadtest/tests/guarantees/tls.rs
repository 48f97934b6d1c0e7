//! By TLS, everything is as without; and who is not whom it should be is named at the start, with what to check.

use crate::order::assert_drained_in_order;
use crate::outages::assert_kept;
use crate::support::sale::{at, open, result_of, said, tls_servers, verdicts_reach, workers};
use crate::support::shop::{Shop, purchase_program};
use futures_util::future::join_all;
use loadtest::schedule::Scenario;
use loadtest::servers::Endpoints;
use serde_json::Value;
use shared::devstack::gateway::Behaviour;
use shared::devstack::{Authority, Fixture, Folder, Forwarder, Gateway, Redis, TlsFront};
use std::net::TcpListener;
use std::sync::Arc;
use time::OffsetDateTime;

const UNREACHABLE: i32 = 69;
const CONFIGURATION: i32 = 78;
/// A function, and a command of `admin`, for each of their servers.
const WITH_BROKER: [&str; 6] = ["purchase", "payment", "release", "restock", "relay", "admin queues"];
const WITH_DATABASE: [&str; 6] = ["purchase", "payment", "release", "restock", "relay", "admin items"];

#[tokio::test]
async fn deaths_drains_and_restarts_of_servers_cost_nobody_a_verdict_or_a_place_by_tls_either() {
    let (mut servers, endpoints) = tls_servers().await;
    servers.postgres.create_database("drained").await.unwrap();
    servers.rabbitmq.add_vhosts(&["drained".to_owned(), "redis".to_owned()]).await.unwrap();
    let (amqp_url, database_url) = (servers.rabbitmq.url("drained"), servers.postgres.url("drained"));
    assert_drained_in_order(Shop::on(&amqp_url, &database_url, &[("ticket", 1_000)]).await).await;

    servers.postgres.create_database("redis").await.unwrap();
    let redis_url = Some(servers.start_redis().await.unwrap().url());
    let by_redis = Endpoints { redis_url, ..at(servers.rabbitmq.url("redis"), servers.postgres.url("redis")) };
    let sale = "run --buyers 8000 --items 400 --stock 4000 --quantity 1-2 --rate 4000 --workers 2 --batch-max 50 --strategy redis \
                --kill-worker-at 20% --add-worker-at 20% --stop-worker-at 40% --add-worker-at 60% --json -";
    let json = result_of(&by_redis, sale).await;
    assert_eq!((&json["order_inversions"], &json["lost"]), (&Value::from(0), &Value::from(0)));

    let scenario = Scenario { buyers: 6_000, items: 3, stock: 4_000, seed: 7, ..Scenario::default() };
    let sale = open(&endpoints, &scenario, workers(2, Some(20)).await).await;
    verdicts_reach(&sale, 200).await;
    servers.rabbitmq.kill_and_restart().await.unwrap();
    verdicts_reach(&sale, 3_000).await;
    servers.postgres.kill_and_restart().await.unwrap();
    assert_kept(sale, &endpoints).await;
    servers.stop().await.unwrap();
}

/// Who speaks TLS, and is not whom it should be; and what is said of it.
async fn impostors(ours: &Authority, other: &Authority) -> Vec<(TlsFront, &'static str)> {
    let past = Some(OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000));
    let names = ["localhost", "127.0.0.1"];
    let front = async |authority, names: &[&str], until| TlsFront::before("", authority, names, until).await.unwrap();
    vec![
        (front(other, &names, None).await, "is of an authority that is not trusted"),
        (front(ours, &names, past).await, "is not valid"),
        (front(ours, &["rabbit.example.org"], None).await, "is for another name"),
    ]
}

#[tokio::test]
async fn whoever_is_not_whom_it_should_be_is_named_with_what_to_check_by_every_function_and_by_admin() {
    let folder = Folder::with_authority().unwrap();
    let other = Authority::create(folder.path().join("other.pem")).unwrap();
    let file = folder.authority().unwrap().file().to_str().unwrap();
    let fixture = Fixture::new().await;
    let ((servers, endpoints), plain) = (tls_servers().await, fixture.amqp_url.as_str());
    let plain_address = plain.split_once('@').unwrap().1;
    let mut broker = Vec::new();
    let mut database = Vec::new();
    let impostors = impostors(folder.authority().unwrap(), &other).await;
    for (front, hint) in &impostors {
        broker.push((format!("amqps://127.0.0.1:{}", front.port), *hint));
        let tls = format!("sslmode=verify-full&sslrootcert={file}");
        database.push((format!("postgres://turnstile@127.0.0.1:{}/x?{tls}", front.port), *hint));
    }
    broker.push((format!("amqps://guest:guest@{plain_address}"), "does not speak TLS; write amqp://"));
    broker.push((endpoints.amqp_url.replace("amqps://", "amqp://"), "speaks TLS alone; write amqps://"));
    broker.push(("amqps://127.0.0.1?cacertfile=/nothing".to_owned(), "AMQP_CA"));
    let encrypted = endpoints.database_url.split_once('?').unwrap().0;
    let (_forwarder, unencrypted) = Forwarder::before(&fixture.database_url).await.unwrap();
    database.push((format!("{unencrypted}sslmode=require"), "does not support TLS"));
    database.push((encrypted.to_owned(), "write sslmode=verify-full"));
    database
        .push((format!("{encrypted}?sslmode=require&sslrootcert={file}"), "is of an authority that is not trusted"));
    database.push((format!("{encrypted}?sslmode=verify-full&sslrootcert=/nothing"), "sslrootcert names it"));
    database.push((format!("{encrypted}?sslmode=verify-ca"), "write sslmode=verify-full"));
    // An authority that the system trusts gives anybody certificates, for a name of theirs.
    let public_authority = Authority::create(folder.path().join("public.pem")).unwrap();
    let public_file = public_authority.file().to_str().unwrap();
    let public = TlsFront::before("", &public_authority, &["db.example.org"], None).await.unwrap();
    for mode in ["require", "verify-ca"] {
        let url = format!("postgres://turnstile@127.0.0.1:{}/x?sslmode={mode}&sslrootcert={file}", public.port);
        database.push((url, "is for another name"));
    }
    let (amqp_url, database_url) = (fixture.amqp_url.as_str(), fixture.database_url.as_str());
    let settings_of_all =
        [("AMQP_URL", amqp_url), ("DATABASE_URL", database_url), ("AMQP_CA", file), ("GATEWAY", "simulated")];
    for (url, hint) in &broker {
        assert_refused(&WITH_BROKER, &[&settings_of_all[..], &[("AMQP_URL", url)]].concat(), hint).await;
    }
    let of_system = ("SSL_CERT_FILE", public_file);
    for (url, hint) in &database {
        assert_refused(&WITH_DATABASE, &[&settings_of_all[..], &[("DATABASE_URL", url), of_system]].concat(), hint)
            .await;
    }
    let load = [("AMQP_URL", broker[0].0.as_str()), ("DATABASE_URL", database_url)];
    assert_refused(&["loadtest run --buyers 1"], &load, "?cacertfile=FILE in the URL").await;
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn so_are_redis_and_the_payment_gateway() {
    let folder = Arc::new(Folder::with_authority().unwrap());
    let authority = folder.authority().unwrap();
    let other = Authority::create(folder.path().join("other.pem")).unwrap();
    let file = authority.file().to_str().unwrap().to_owned();
    let fixture = Fixture::new().await;
    let settings_of_all = [("AMQP_URL", fixture.amqp_url.as_str()), ("DATABASE_URL", fixture.database_url.as_str())];
    let redis_by = |url: String, hint| {
        (vec![("STRATEGY", "redis".to_owned()), ("REDIS_CA", file.clone()), ("REDIS_URL", url)], hint)
    };
    let gateway_by = |url: String, hint| {
        (vec![("GATEWAY", "http".to_owned()), ("GATEWAY_CA", file.clone()), ("GATEWAY_URL", url)], hint)
    };
    let impostors = impostors(authority, &other).await;
    let (mut of_redis, mut of_gateway) = (Vec::new(), Vec::new());
    for (front, hint) in &impostors {
        of_redis.push(redis_by(format!("rediss://127.0.0.1:{}", front.port), *hint));
        of_gateway.push(gateway_by(format!("https://127.0.0.1:{}", front.port), *hint));
    }
    let redis = Redis::start(&folder).await.unwrap();
    of_redis.push(redis_by(redis.url().replace("rediss://", "redis://"), "speaks TLS alone; write rediss://"));
    let gateway = Gateway::open(Behaviour::default()).await.unwrap();
    let address = gateway.url().trim_start_matches("http://");
    let front = TlsFront::before(address, authority, &["127.0.0.1"], None).await.unwrap();
    of_gateway.push(gateway_by(format!("https://{address}"), "does not speak TLS; write http://"));
    of_gateway.push(gateway_by(format!("http://127.0.0.1:{}", front.port), "speaks TLS alone; write https://"));
    for (programs, cases) in [(["purchase"], &of_redis), (["payment"], &of_gateway)] {
        for (settings, hint) in cases {
            let settings = settings.iter().map(|(name, value)| (*name, value.as_str()));
            assert_refused(&programs, &settings_of_all.into_iter().chain(settings).collect::<Vec<_>>(), hint).await;
        }
    }
    // And one that is whom it should be takes payments.
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let url = format!("https://127.0.0.1:{}", front.port);
    let settings = [("GATEWAY", "http"), ("GATEWAY_URL", url.as_str()), ("GATEWAY_CA", file.as_str())];
    let _functions = [shop.worker("w", &[]).await, shop.worker_of("payment", "p", &settings).await];
    let order = shop.purchase("r").await.order().to_owned();
    assert_eq!(shop.pay("p-r", &order).await.code(), "paid");
    redis.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_asks_for_no_tls_on_the_way_to_another_machine_is_warned() {
    let nobody = "0.0.0.0:1/x"; // Not this machine by its name, and answered by nobody at once.
    let (broker, database) = (format!("amqp://{nobody}"), format!("postgres://u@{nobody}"));
    let (by_tls, url) = (format!("{database}?sslmode=verify-full"), Fixture::new().await.database_url);
    for (function, settings, warnings) in [
        (
            "relay",
            [("AMQP_URL", broker.as_str()), ("DATABASE_URL", url.as_str())],
            ["traffic to the broker is plain"].as_slice(),
        ),
        (
            "purchase",
            [("AMQP_URL", broker.as_str()), ("DATABASE_URL", database.as_str())],
            &["traffic to the database may be plain"],
        ),
        ("purchase", [("AMQP_URL", "amqp://127.0.0.1:1"), ("DATABASE_URL", by_tls.as_str())], &[]),
        ("relay", [("AMQP_URL", "amqp://127.0.0.1:1"), ("DATABASE_URL", url.as_str())], &[]),
    ] {
        let mut command = tokio::process::Command::new(purchase_program().await.with_file_name(function));
        command.args(["--startup-seconds-max", "0"]).envs(settings).env("NO_COLOR", "1").kill_on_drop(true);
        let said = String::from_utf8(command.output().await.unwrap().stderr).unwrap();
        assert_eq!(said.matches(" plain").count(), warnings.len(), "{settings:?}: {said}");
        assert!(warnings.iter().all(|warning| said.contains(warning)), "{settings:?}: {said}");
    }
}

#[tokio::test]
async fn whoever_is_silent_or_has_nodes_that_are_away_besides_is_waited_for() {
    let folder = Folder::with_authority().unwrap();
    let file = folder.authority().unwrap().file().to_str().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let fixture = Fixture::new().await;
    let plain = fixture.amqp_url.split_once('@').unwrap().1;
    let one_restarts = format!("amqps://guest:guest@{plain},amqps://127.0.0.1:1/{}", plain.split_once('/').unwrap().1);
    let at = silent.local_addr().unwrap();
    let (by_amqps, by_rediss) = (format!("amqps://{at}"), format!("rediss://{at}"));
    let settings_of_all = [
        ("AMQP_URL", fixture.amqp_url.as_str()),
        ("DATABASE_URL", fixture.database_url.as_str()),
        ("AMQP_CA", file),
        ("REDIS_CA", file),
        ("STRATEGY", "redis"),
        ("STARTUP_SECONDS_MAX", "0"),
    ];
    for (function, setting, hint) in [
        ("relay", ("AMQP_URL", by_amqps.as_str()), "no answer within"),
        ("relay", ("AMQP_URL", &one_restarts), "does not speak TLS; write amqp://"),
        ("purchase", ("REDIS_URL", &by_rediss), "is Redis running"),
    ] {
        assert_ends(UNREACHABLE, &[function], &[&settings_of_all[..], &[setting]].concat(), hint).await;
    }
}

async fn assert_refused(programs: &[&str], settings: &[(&str, &str)], hint: &str) {
    // It is not waited for as for a server that is away: that would be 69, after half a minute.
    assert_ends(CONFIGURATION, programs, settings, hint).await;
}

async fn assert_ends(code: i32, programs: &[&str], settings: &[(&str, &str)], hint: &str) {
    let purchase = purchase_program().await;
    let run = |line: &&str| {
        let (program, arguments) = line.split_once(' ').unwrap_or((line, ""));
        let mut command = tokio::process::Command::new(purchase.with_file_name(program));
        command
            .args(arguments.split_whitespace())
            .envs(settings.iter().copied())
            .env("NO_COLOR", "1")
            .kill_on_drop(true);
        async move { command.output().await.unwrap() }
    };
    for output in join_all(programs.iter().map(run)).await {
        assert_eq!(output.status.code(), Some(code), "{settings:?}: {output:?}");
        assert!(said(&output).contains(hint), "{settings:?}: {output:?}");
    }
}
