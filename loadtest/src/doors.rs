//! The doors that Turnstile replaces: purchases over HTTP, decided in the request, as shops are commonly built.
//!
//! Baselines, and no part of the product: a server of its own (`server`), in a process of its own, that decides by one of
//! three well-known strategies on tables of its own (`schema`), and a `crowd`, in processes of its own (`crowds`), that comes
//! to it at once, one connection each.
//! Each door is tuned as a competent user would, and nothing is done to make it fail: what is told of it is what happened.
//! Invariant: every buyer of the crowd ends in exactly one of sold, sold out and one [`FailureKind`], and what was really
//! sold is read from the database, after the server has ended.

mod crowd;
pub(crate) mod crowds;
mod files;
mod http;
mod kernel;
mod outcome;
mod process;
mod reckoning;
mod scenario;
mod schema;
pub(crate) mod server;

use std::num::NonZeroU16;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use shared::db;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use uuid::Uuid;

use crate::failure::Failure;
use crate::schedule::{Due, Scenario, Schedule};
use crowd::Visits;
use crowds::Crowds;
pub(crate) use files::processes_for;
use kernel::Counters;
pub use outcome::{DoorOutcome, FailureKind};
use process::Server;
use reckoning::Known;
pub use scenario::{DoorScenario, DoorStrategy};
use server::Form;

/// Opens a door on this database, lets the crowd at it, closes it, and tells what happened.
///
/// `program` is this program (`std::env::current_exe`), which is started as the server. The tables are made in the schema
/// `doors` where they are missing; every run sells an item of its own, and leaves its rows there.
///
/// # Errors
/// The database is away, a process does not start, or the system allows too few open files for so many buyers.
pub async fn run(program: &Path, database_url: &str, scenario: &DoorScenario) -> Result<DoorOutcome, Failure> {
    Door::open(program, database_url, scenario).await?.crowd().await
}

/// A door that is open, and at which nobody has been yet: for tests that disturb it.
pub struct Door {
    server: Server,
    crowds: Crowds,
    schedule: Schedule,
    scenario: DoorScenario,
    database: PgConnectOptions,
}

impl Door {
    /// Puts an item on sale and starts the server.
    ///
    /// # Errors
    /// As [`run`]'s.
    pub async fn open(program: &Path, database_url: &str, scenario: &DoorScenario) -> Result<Self, Failure> {
        let processes = files::processes_for(scenario.buyers)?;
        let options = PgConnectOptions::from_str(database_url).context("DATABASE_URL cannot be read");
        let database = options.map_err(Failure::Configuration)?.application_name("loadtest doors");
        let schedule = schedule(scenario);
        let mut connection = connect(&database).await?;
        for item in &schedule.items {
            schema::prepare(&mut connection, item).await.map_err(database_failed)?;
        }
        connection.close().await.map_err(database_failed)?;
        let server = Server::start(program, database_url, scenario).await?;
        let crowds = Crowds::start(program, processes).await.map_err(Failure::Broken)?;
        Ok(Self { server, crowds, schedule, scenario: scenario.clone(), database })
    }

    /// The id of what is on sale, in `doors.items`.
    #[must_use]
    pub fn item(&self) -> &str {
        self.schedule.items.first().map_or("", |item| &item.id)
    }

    /// Lets everybody in, waits until the last one has left and the server has finished, closes, and reckons.
    ///
    /// # Errors
    /// The database or the server is gone.
    pub async fn crowd(self) -> Result<DoorOutcome, Failure> {
        let Self { server, crowds, schedule, scenario, database } = self;
        let before = Counters::read();
        let Visits { visits, lag } =
            crowds.come(server.address, forms(&schedule), scenario.time_out).await.map_err(Failure::Broken)?;
        let kernel = Counters::read() - before;
        let counts = server.counts().await?;
        server.stop().await?;
        let mut connection = connect(&database).await?;
        let item = schedule.items.first().map_or("", |item| &item.id);
        let truth = schema::read(&mut connection, item).await.map_err(database_failed)?;
        connection.close().await.map_err(database_failed)?;
        Ok(Known { schedule: &schedule, visits: &visits, lag, counts, truth: &truth, kernel }.outcome())
    }
}

/// Everybody for a unit of the same item, all at once, under ids of this run.
fn schedule(scenario: &DoorScenario) -> Schedule {
    let DoorScenario { buyers, stock, seed, .. } = *scenario;
    let scenario = Scenario { buyers, items: 1, stock, quantities: 1..=1, rate: 0.0, seed };
    Schedule::new(&scenario, &Uuid::now_v7().simple().to_string())
}

fn forms(schedule: &Schedule) -> Vec<Form> {
    let form = |(index, due): (usize, &Due)| Form {
        request_id: due.request_id,
        item: schedule.items[due.item as usize].id.clone(),
        buyer: Schedule::buyer(index),
        quantity: NonZeroU16::MIN,
    };
    schedule.requests.iter().enumerate().map(form).collect()
}

async fn connect(database: &PgConnectOptions) -> Result<PgConnection, Failure> {
    db::connect(database).await.map_err(database_failed)
}

fn database_failed(error: sqlx::Error) -> Failure {
    Failure::Unreachable(
        anyhow!(error).context("the doors' database; is PostgreSQL running, and does DATABASE_URL name it"),
    )
}
