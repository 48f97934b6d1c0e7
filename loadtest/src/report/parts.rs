//! What pages are made of: sections, tiles, tables, lanes. Knows no result.
//!
//! Invariant: whatever a lane or a chart shows is also there as text.

use super::html::Html;

/// How a text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it is.
    Plain,
    /// A promise that was kept.
    Good,
    /// A promise that was broken, or a buyer who got no verdict.
    Bad,
    /// Not to be noticed.
    Dim,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Dim => "dim",
        }
    }
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell(pub(super) String, pub(super) Tone);

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self(text, Tone::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Text with this heading.
    Text(&'static str),
    /// Figures with this heading.
    Figure(&'static str),
}

impl Column {
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Text(heading) => (heading, "text"),
            Self::Figure(heading) => (heading, "figure"),
        }
    }
}

/// A section; its title is a question that it answers, or says what is in it.
pub(super) fn section(html: &mut Html, title: &str, lead: &str, body: impl FnOnce(&mut Html)) {
    html.markup("<section><h2>").text(title).markup("</h2>");
    if !lead.is_empty() {
        html.markup("<p class=\"lead\">").text(lead).markup("</p>");
    }
    body(html);
    html.markup("</section>\n");
}

/// A few figures, large: what each is, the figure, and a remark.
pub(super) fn tiles(html: &mut Html, tiles: &[(&str, String, String)]) {
    html.markup("<dl class=\"tiles\">");
    for (label, figure, remark) in tiles {
        html.markup("<div><dt>").text(label).markup("</dt><dd>").text(figure);
        html.markup("<small>").text(remark).markup("</small></dd></div>");
    }
    html.markup("</dl>");
}

/// Names and what they stand for.
pub(super) fn pairs(html: &mut Html, pairs: &[(&str, String)]) {
    html.markup("<dl class=\"pairs\">");
    for (name, value) in pairs {
        html.markup("<div><dt>").text(name).markup("</dt><dd>").text(value).markup("</dd></div>");
    }
    html.markup("</dl>");
}

/// A table; the first cell of each row names it. What is too wide for the screen is scrolled in a frame of its own.
pub(super) fn table(html: &mut Html, caption: &str, columns: &[Column], rows: &[Vec<Cell>]) {
    html.markup("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"").text(caption);
    html.markup("\"><table><caption>").text(caption).markup("</caption><thead><tr>");
    for column in columns {
        let (heading, class) = column.parts();
        html.markup("<th scope=\"col\" class=\"").text(class).markup("\">").text(heading).markup("</th>");
    }
    html.markup("</tr></thead><tbody>");
    for row in rows {
        html.markup("<tr>");
        for (index, (Cell(text, tone), column)) in row.iter().zip(columns).enumerate() {
            let (_, class) = column.parts();
            let is_first = index == 0;
            html.markup(if is_first { "<th scope=\"row\" class=\"" } else { "<td class=\"" });
            html.text(class).markup(" ").text(tone.class()).markup("\">").text(text);
            html.markup(if is_first { "</th>" } else { "</td>" });
        }
        html.markup("</tr>");
    }
    html.markup("</tbody></table></div>\n");
}

/// The figures behind a chart, folded away.
pub(super) fn folded(html: &mut Html, summary: &str, body: impl FnOnce(&mut Html)) {
    html.markup("<details><summary>").text(summary).markup("</summary>");
    body(html);
    html.markup("</details>\n");
}

/// A place for a chart that the page's script draws; `spoken` says what there is to see.
pub(super) fn chart(html: &mut Html, name: &'static str, spoken: &str) {
    html.markup("<div class=\"chart\" role=\"img\" data-chart=\"").markup(name).markup("\" aria-label=\"").text(spoken);
    html.markup("\"><noscript>The chart needs JavaScript; its figures are below.</noscript></div>\n");
}

/// A part of a lane that is painted: from where to where, as shares of the lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Paint {
    /// How.
    pub(super) class: &'static str,
    /// The left end.
    pub(super) from: f64,
    /// The right end.
    pub(super) to: f64,
}

/// A line across all lanes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    /// How it is drawn.
    pub(super) class: &'static str,
    /// What it is.
    pub(super) label: String,
    /// Where, as a share of the lanes.
    pub(super) at: f64,
}

/// Something named, painted to a scale, and its figure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lane {
    /// What it is about.
    pub(super) name: String,
    /// What is painted.
    pub(super) paints: Vec<Paint>,
    /// The same in figures.
    pub(super) figure: String,
    /// A remark on the figure.
    pub(super) remark: String,
}

/// Lanes under a caption and one scale: a bar chart that is a table.
pub(super) fn lanes(html: &mut Html, caption: &str, marks: &[Mark], lanes: &[Lane]) {
    html.markup("<table class=\"lanes\"><caption>").text(caption).markup("</caption>");
    if !marks.is_empty() {
        html.markup("<thead><tr><td></td><td class=\"track\"><div>");
        for mark in marks {
            // A label stands on that side of its line where there is room.
            let side = if mark.at > 0.5 { " before" } else { " after" };
            html.markup("<span class=\"").text(mark.class).text(side).markup("\" style=\"left:");
            percent(html, mark.at).markup("\">").text(&mark.label).markup("</span>");
        }
        html.markup("</div></td><td></td></tr></thead>");
    }
    html.markup("<tbody>");
    for lane in lanes {
        html.markup("<tr><th scope=\"row\">").text(&lane.name);
        html.markup("</th><td class=\"track\" aria-hidden=\"true\"><div>");
        for mark in marks {
            html.markup("<i class=\"").text(mark.class).markup("\" style=\"left:");
            percent(html, mark.at).markup("\"></i>");
        }
        for paint in lane.paints.iter().filter(|paint| paint.to > 0.0) {
            html.markup("<b class=\"").text(paint.class).markup("\" style=\"left:");
            percent(html, paint.from).markup(";width:");
            percent(html, (paint.to - paint.from).max(0.0)).markup("\"></b>");
        }
        html.markup("</div></td><td class=\"figure\">").text(&lane.figure);
        html.markup("<small>").text(&lane.remark).markup("</small></td></tr>");
    }
    html.markup("</tbody></table>\n");
}

/// What the ways to paint mean.
pub(super) fn legend(html: &mut Html, entries: &[(&'static str, &str)]) {
    if entries.is_empty() {
        return;
    }
    html.markup("<ul class=\"legend\">");
    for (class, meaning) in entries {
        html.markup("<li><b class=\"").text(class).markup("\"></b>").text(meaning).markup("</li>");
    }
    html.markup("</ul>");
}

fn percent(html: &mut Html, share: f64) -> &mut Html {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    html.text(format_args!("{:.2}%", share * 100.0))
}

/// A part of a whole, for a lane.
pub(super) fn share_of(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
