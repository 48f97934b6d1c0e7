//! The result for people: one line that says it all, then the figures. Pure: text out, nothing else.
//!
//! Invariant: every number is one of the [`Outcome`]'s; figures are ASCII with separated thousands.

mod figures;

use std::fmt::Write;
use std::io::IsTerminal;

use crate::events::Action;
use crate::outcome::{DepthSample, Outcome};
use figures::{count, decimal, plural, share, signed, sparkline};

/// The column where a section's figures begin.
const LABEL_COLUMNS: usize = 24;

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// With ANSI colours.
    Coloured,
}

impl Style {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    #[must_use]
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !refused { Self::Coloured } else { Self::Plain }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn title(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// The whole summary, with a final newline.
#[must_use]
pub fn render(outcome: &Outcome, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    page.headline(outcome);
    page.invariants(outcome);
    page.verdicts(outcome);
    page.latency(outcome);
    page.throughput(outcome);
    page.contention(outcome);
    page.queue(outcome);
    page.workers(outcome);
    page.events(outcome);
    page.text
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn section(&mut self, title: &str) {
        let title = self.style.title(title);
        self.line("");
        self.line(&format!("  {title}"));
    }

    fn row(&mut self, label: &str, value: &str) {
        self.line(&format!("    {label:<LABEL_COLUMNS$}{value}"));
    }

    fn headline(&mut self, outcome: &Outcome) {
        let (verdicts, scenario) = (outcome.verdicts, &outcome.scenario);
        let failed = outcome.lost + verdicts.invalid + outcome.conflicting_replies;
        let mut parts =
            vec![format!("{} sold", count(verdicts.reserved)), format!("{} sold out", count(verdicts.sold_out))];
        if verdicts.refused > 0 {
            parts.push(format!("{} refused", count(verdicts.refused)));
        }
        parts.push(format!("{} failed", count(failed)));
        let line = format!("{} — {:.2} s", parts.join(" · "), outcome.seconds);
        let line = if outcome.passed { self.style.good(&line) } else { self.style.bad(&line) };
        self.line(&line);
        let pace = match scenario.rate {
            0.0 => "at once".to_owned(),
            rate => format!("at {rate} per second"),
        };
        let mut on = vec![format!("RabbitMQ {}", outcome.servers.rabbitmq)];
        on.extend(outcome.servers.postgresql.iter().map(|version| format!("PostgreSQL {version}")));
        let what = format!(
            "{} {pace} · {} of {} · {} · seed {} · {}",
            plural(u64::from(scenario.buyers), "buyer"),
            plural(scenario.stock, "unit"),
            plural(u64::from(scenario.items), "item"),
            plural(u64::from(scenario.workers), "worker"),
            scenario.seed,
            on.join(", ")
        );
        let what = self.style.dim(&what);
        self.line(&what);
    }

    fn invariants(&mut self, outcome: &Outcome) {
        self.section("INVARIANTS");
        for invariant in &outcome.invariants {
            let name = invariant.name.replace('_', " ");
            let line = match invariant.holds {
                true => format!("{} {name:<LABEL_COLUMNS$}{}", self.style.good("✓"), self.style.dim(&invariant.detail)),
                false => format!("{} {name:<LABEL_COLUMNS$}{}", self.style.bad("✗"), self.style.bad(&invariant.detail)),
            };
            self.line(&format!("    {line}"));
        }
    }

    fn verdicts(&mut self, outcome: &Outcome) {
        self.section("VERDICTS");
        let verdicts = outcome.verdicts;
        let buyers = u64::from(outcome.scenario.buyers);
        let answered = verdicts.reserved + verdicts.sold_out + verdicts.refused + verdicts.invalid;
        let rows = [
            ("reserved", verdicts.reserved),
            ("sold out", verdicts.sold_out),
            ("refused", verdicts.refused),
            ("invalid", verdicts.invalid),
            ("none", buyers.saturating_sub(answered)),
        ];
        for (label, number) in rows {
            self.row(label, &format!("{:>10}  {:>6}", count(number), share(number, buyers)));
        }
        for (label, number) in
            [("duplicate replies", outcome.duplicate_replies), ("reconnects", outcome.reconnects.into())]
        {
            if number > 0 {
                self.row(label, &format!("{:>10}", count(number)));
            }
        }
    }

    fn latency(&mut self, outcome: &Outcome) {
        self.section("LATENCY (ms, from the intended send to the verdict)");
        let latency = outcome.latency_ms;
        let figures = [
            ("min", latency.min),
            ("p50", latency.p50),
            ("p90", latency.p90),
            ("p95", latency.p95),
            ("p99", latency.p99),
            ("p99.9", latency.p999),
            ("max", latency.max),
        ];
        let (mut names, mut values) = (String::new(), String::new());
        for (name, value) in figures {
            // Writing to a String cannot fail.
            let _ = write!(names, "{name:>10}");
            let _ = write!(values, "{:>10}", decimal(value, 1));
        }
        let names = self.style.dim(&names);
        self.line(&format!("  {names}"));
        self.line(&format!("  {values}"));
    }

    fn throughput(&mut self, outcome: &Outcome) {
        self.section("THROUGHPUT");
        self.row("purchases per second", &format!("{:>10}", decimal(outcome.purchases_per_second, 0)));
        if let Some(ceiling) = outcome.ceiling {
            let seconds = format!("{:>10}  in {:.2} s", decimal(ceiling.purchases_per_second, 0), ceiling.seconds);
            self.row("without a database", &seconds);
            if let Some(ratio) = ceiling.ratio {
                self.row("share of that ceiling", &format!("{ratio:>10.2}"));
            }
        }
    }

    fn contention(&mut self, outcome: &Outcome) {
        if outcome.servers.postgresql.is_some() {
            self.section("CONTENTION");
            self.row("decisions attempted", &format!("{:>10}", signed(outcome.attempts)));
            self.row("version conflicts", &format!("{:>10}", signed(outcome.conflicts)));
        }
    }

    fn queue(&mut self, outcome: &Outcome) {
        self.section("QUEUE");
        let over_time = |of: fn(&DepthSample) -> u64| {
            sparkline(&outcome.queue_depth.iter().map(|sample| (sample.at_ms, of(sample))).collect::<Vec<_>>())
        };
        let (ready, waiting) = (over_time(|sample| sample.messages), over_time(|sample| sample.waiting));
        self.row("peak depth", &format!("{:>10}  {ready}", count(outcome.queue_depth_peak)));
        self.row("most buyers waiting", &format!("{:>10}  {waiting}", count(outcome.waiting_peak)));
    }

    fn workers(&mut self, outcome: &Outcome) {
        self.section("WORKERS");
        let all: u64 = outcome.workers.iter().map(|worker| worker.verdicts).sum();
        for worker in &outcome.workers {
            let memory = worker.rss_mib.map(|mib| format!("  {mib:.1} MiB")).unwrap_or_default();
            let id = if worker.id.is_empty() { "(nameless)" } else { &worker.id };
            self.row(id, &format!("{:>10}  {:>6}{memory}", count(worker.verdicts), share(worker.verdicts, all)));
        }
    }

    fn events(&mut self, outcome: &Outcome) {
        if outcome.events.is_empty() {
            return;
        }
        self.section("EVENTS");
        for event in &outcome.events {
            let at = event.at.to_string();
            let what = match event.worker.as_ref().or(event.broker_node.as_ref()) {
                Some(whom) => format!("{whom} {}", event.event.past()),
                None => format!("no worker was left to be {}", event.event.past()),
            };
            let next = event.next_verdict_seconds.map(|seconds| {
                let whose = if event.event == Action::Add { "its first verdict" } else { "the next worker's verdicts" };
                format!("; {whose} {} s later", decimal(seconds, 2))
            });
            self.row(&format!("at {at}"), &format!("{what}{}", next.unwrap_or_default()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auditor::{Invariant, VerdictCounts};
    use crate::outcome::{CeilingReport, EventReport, Latency, ScenarioReport, ServersReport, WorkerReport};

    fn outcome() -> Outcome {
        let kept = Invariant { name: "never_oversold", holds: true, detail: "at most 1 unit reserved".into() };
        let worker = WorkerReport { id: "worker-1".into(), verdicts: 12_345, rss_mib: Some(21.5) };
        Outcome {
            scenario: ScenarioReport {
                buyers: 12_345,
                stock: 1,
                items: 1,
                workers: 1,
                strategy: "optimistic",
                batch_max: None,
                rate: 0.0,
                seed: 42,
            },
            servers: ServersReport { rabbitmq: "3.10.8".into(), postgresql: Some("15.18".into()) },
            verdicts: VerdictCounts { reserved: 1, sold_out: 12_344, refused: 0, invalid: 0 },
            lost: 0,
            duplicate_replies: 0,
            conflicting_replies: 0,
            oversold: 0,
            order_inversions: 0,
            seconds: 1.234_567,
            purchases_per_second: 9_999.6,
            latency_ms: Latency { min: 1.0, p50: 2.0, p90: 3.0, p95: 4.0, p99: 5.0, p999: 6.0, max: 1_234.56 },
            attempts: 26,
            conflicts: 0,
            queue_depth_peak: 7_000,
            events: vec![],
            workers: vec![worker],
            ceiling: None,
            invariants: vec![kept],
            passed: true,
            waiting_peak: 12_000,
            queue_depth: vec![
                DepthSample { at_ms: 10, messages: 7_000, waiting: 12_000 },
                DepthSample { at_ms: 20, messages: 0, waiting: 0 },
            ],
            reconnects: 0,
        }
    }

    fn lines(outcome: &Outcome) -> Vec<String> {
        render(outcome, Style::Plain).lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn the_first_line_says_it_all() {
        assert_eq!(lines(&outcome())[0], "1 sold · 12,344 sold out · 0 failed — 1.23 s");
    }

    #[test]
    fn every_section_is_there_in_order() {
        let lines = lines(&outcome());
        let titles: Vec<&str> = lines
            .iter()
            .map(String::as_str)
            .filter(|line| line.chars().take(5).all(|letter| letter.is_ascii_uppercase()) && !line.is_empty())
            .map(|line| line.split(' ').next().unwrap_or(line))
            .collect();
        assert_eq!(
            titles,
            ["INVARIANTS", "VERDICTS", "LATENCY", "THROUGHPUT", "CONTENTION", "QUEUE", "WORKERS"],
            "{lines:#?}"
        );
    }

    #[test]
    fn a_broken_invariant_is_crossed_and_names_its_offenders() {
        let mut broken = outcome();
        broken.passed = false;
        broken.invariants[0] = Invariant { name: "never_oversold", holds: false, detail: "1: concert by 3".into() };
        let text = render(&broken, Style::Plain);
        assert!(text.contains("✗ never oversold"), "{text}");
        assert!(text.contains("1: concert by 3") && !text.contains('✓'), "{text}");
    }

    #[test]
    fn the_ceiling_is_shown_with_its_ratio() {
        let ceiling = CeilingReport { seconds: 1.0, purchases_per_second: 12_345.0, ratio: Some(0.81) };
        let text = render(&Outcome { ceiling: Some(ceiling), ..outcome() }, Style::Plain);
        assert!(text.contains("12,345  in 1.00 s") && text.contains("0.81"), "{text}");
    }

    #[test]
    fn events_are_listed_with_their_points_and_workers_where_there_were_any() {
        let at = "25%".parse().unwrap();
        let event = |event, worker: Option<&str>, node: Option<&str>| {
            let [worker, broker_node] = [worker, node].map(|whom| whom.map(str::to_owned));
            let next_verdict_seconds = worker.as_ref().map(|_| 0.25);
            EventReport { at, event, worker, broker_node, seconds: 1.5, next_verdict_seconds }
        };
        let events = vec![
            event(Action::Kill, Some("worker-1"), None),
            event(Action::Stop, None, None),
            event(Action::KillBroker, None, Some("node-2")),
        ];
        let lines = lines(&Outcome { events, ..outcome() });
        let section: Vec<&str> = lines.iter().map(String::as_str).skip_while(|line| *line != "EVENTS").collect();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let section: Vec<String> = section.into_iter().map(words).collect();
        let expected = [
            "at 25% worker-1 killed; the next worker's verdicts 0.25 s later",
            "at 25% no worker was left to be stopped",
            "at 25% node-2 killed",
        ];
        assert_eq!((section[0].as_str(), &section[1..]), ("EVENTS", &expected.map(str::to_owned)[..]));
    }

    #[test]
    fn without_colours_there_is_no_escape_and_with_them_there_is() {
        assert!(!render(&outcome(), Style::Plain).contains('\x1b'));
        assert!(render(&outcome(), Style::Coloured).contains("\x1b[32m"));
    }
}
