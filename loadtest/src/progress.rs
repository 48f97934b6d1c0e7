//! What a person at a terminal sees while waiting, on standard error: the stage, then a bar of verdicts.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::borrow::Cow;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;

const LOOK_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.enable_steady_tick(LOOK_PAUSE);
        Self { bar }
    }

    pub(crate) fn stage(&self, what: impl Into<Cow<'static, str>>) {
        self.show("{spinner} {msg} {elapsed:.dim}", what);
    }

    /// Shows the verdicts as they come, until the result is dropped.
    pub(crate) fn follow(
        &self,
        what: impl Into<Cow<'static, str>>,
        mut answered: watch::Receiver<usize>,
        total: u32,
    ) -> JoinSet<()> {
        self.show("{spinner} {msg} [{bar:40}] {human_pos} of {human_len} verdicts {elapsed:.dim}", what);
        self.bar.set_length(u64::from(total));
        self.bar.reset_elapsed();
        let bar = self.bar.clone();
        let mut following = JoinSet::new();
        if !bar.is_hidden() {
            following.spawn(async move {
                let mut look = interval(LOOK_PAUSE);
                loop {
                    look.tick().await;
                    bar.set_position(*answered.borrow_and_update() as u64);
                }
            });
        }
        following
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn show(&self, template: &str, what: impl Into<Cow<'static, str>>) {
        let style = ProgressStyle::with_template(template).expect("the templates are constant and valid");
        self.bar.set_style(style);
        self.bar.set_message(what);
    }
}
