//! The pages' files, which are part of the program: no build step, and nothing is asked of anybody else.

use crate::door::Id;
use crate::problem::Problem;
use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Scripts and styles are files of ours, and nobody else is asked for anything; and no page of others has ours in it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What both pages are made of, by name and kind.
const FILES: [(&str, &str, &str); 12] = [
    ("base.css", STYLE, include_str!("../pages/base.css")),
    ("board.css", STYLE, include_str!("../pages/board.css")),
    ("board.js", SCRIPT, include_str!("../pages/board.js")),
    ("chart.js", SCRIPT, include_str!("../pages/chart.js")),
    ("logo.svg", "image/svg+xml", include_str!("../pages/logo.svg")),
    ("page.js", SCRIPT, include_str!("../pages/page.js")),
    ("purchase.js", SCRIPT, include_str!("../pages/purchase.js")),
    ("shop.css", STYLE, include_str!("../pages/shop.css")),
    ("shop.js", SCRIPT, include_str!("../pages/shop.js")),
    ("uPlot.LICENSE", "text/plain; charset=utf-8", include_str!("../pages/vendor/uPlot.LICENSE")),
    ("uPlot.iife.min.js", SCRIPT, include_str!("../pages/vendor/uPlot.iife.min.js")),
    ("uPlot.min.css", STYLE, include_str!("../pages/vendor/uPlot.min.css")),
];

/// The files of the pages, at `/pages/NAME`.
pub(crate) fn files<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/pages/{name}", get(file))
}

async fn file(Id(name): Id) -> Response {
    let found = FILES.iter().find(|(file, ..)| *file == name);
    found.map_or_else(|| Problem::NotFound.into_response(), |(_, kind, text)| served(kind, text))
}

pub(crate) async fn shop() -> Response {
    served(HTML, include_str!("../pages/shop.html"))
}

pub(crate) async fn board() -> Response {
    served(HTML, include_str!("../pages/board.html"))
}

fn served(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, &str); 5] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        // A page of one version and a script of another would not understand each other.
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}
