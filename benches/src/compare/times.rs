//! Histograms of times, in nanoseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on a clock that all processes read alike.
#[inline]
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    (time.tv_sec * 1_000_000_000 + time.tv_nsec).cast_unsigned()
}

/// From 1 ns to a minute, to three digits.
pub(crate) struct Times(Histogram<u64>);

const LONGEST: u64 = 60_000_000_000;

impl Times {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order"))
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.record_nanos(u64::try_from(time.as_nanos()).unwrap_or(LONGEST));
    }

    pub(crate) fn record_nanos(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.max(1));
    }

    /// For another process: values, and how often each.
    pub(crate) fn pairs(&self) -> Vec<(u64, u64)> {
        self.0.iter_recorded().map(|it| (it.value_iterated_to(), it.count_at_value())).collect()
    }

    pub(crate) fn add(&mut self, pairs: &[(u64, u64)]) {
        for (value, count) in pairs {
            self.0.saturating_record_n(*value, *count);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn at(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// The text that HdrHistogram's own tools plot: microseconds.
    pub(crate) fn hgrm(&self) -> String {
        let mut text = format!(
            "{:>12} {:>14} {:>10} {:>14}\n\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        );
        let mut seen = 0;
        for step in self.0.iter_quantiles(5) {
            seen += step.count_since_last_iteration();
            let (value, quantile) = (step.value_iterated_to() as f64 / 1e3, step.quantile());
            let inverse = if quantile < 1.0 {
                format!("{:14.2}", 1.0 / (1.0 - quantile))
            } else {
                String::new()
            };
            text += &format!("{value:12.3} {quantile:14.12} {seen:10} {inverse}\n");
        }
        text + &format!(
            "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]\n",
            self.0.mean() / 1e3,
            self.0.stdev() / 1e3,
            self.0.max() as f64 / 1e3,
            self.0.len()
        )
    }
}
