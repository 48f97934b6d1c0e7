//! A real browser, which looks at a report and says what it saw.

use crate::support::browser::Browser;
use crate::support::tab::{Look, Tab};
use serde::Deserialize;
use serde_json::json;
use std::fs;

const INSPECT: &str = include_str!("inspect.js");

/// A page, as the browser saw it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Seen {
    pub(crate) errors: Vec<String>,
    /// How often something ran that was to be text.
    pub(crate) ran: u32,
    pub(crate) places: Vec<String>,
    pub(crate) canvases: Vec<Canvas>,
    /// How wide each painted part of each lane is.
    pub(crate) bars: Vec<f64>,
    pub(crate) background: String,
    /// The least of any text.
    pub(crate) contrast: f64,
    pub(crate) headings: Vec<String>,
    pub(crate) text: String,
    /// Elements that no report has in its main part.
    pub(crate) elements: Vec<String>,
    pub(crate) width: u32,
    /// By how much the page is wider than the screen.
    pub(crate) overflow: i64,
    pub(crate) requests: Vec<String>,
    pub(crate) downloaded: Option<String>,
    pub(crate) printed: Vec<Canvas>,
    /// The background in print.
    pub(crate) paper: String,
    /// What the browser said of the page, and of what it asked others for.
    #[serde(skip)]
    pub(crate) faults: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
pub(crate) struct Canvas {
    pub(crate) chart: String,
    /// Pixels that are not transparent.
    pub(crate) painted: u64,
    pub(crate) colours: Vec<u32>,
    pub(crate) width: u32,
}

impl Browser {
    /// Opens the page, with what inspects it.
    pub(crate) async fn look(&self, name: &str, page: &str, look: Look) -> Seen {
        let file = self.folder.path().join(format!("{name}.html"));
        fs::write(&file, page).unwrap();
        let mut tab = Tab::empty(self, name, "file://".to_owned()).await;
        tab.look(look).await;
        tab.ask("Page.addScriptToEvaluateOnNewDocument", json!({ "source": INSPECT })).await;
        tab.go(file.to_str().unwrap()).await;
        let seen = serde_json::from_value(tab.until("window.inspected").await).unwrap();
        Seen { faults: tab.faults().await, ..seen }
    }
}
