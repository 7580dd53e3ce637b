//! Round-trip time and retransmission timeout: RFC 6298, with Linux's bounds.

/// Bounds of the timeout in nanoseconds (`TCP_RTO_MIN`, `TCP_RTO_MAX`).
const MIN: u64 = 200_000_000;
const MAX: u64 = 120_000_000_000;
/// Before anything is measured (`TCP_TIMEOUT_INIT`).
const INITIAL: u64 = 1_000_000_000;

/// The estimator. Times in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Rtt {
    /// Smoothed; zero before the first sample.
    pub smoothed: u64,
    /// Mean deviation.
    pub deviation: u64,
    /// The least ever seen; zero before the first sample.
    pub least: u64,
    /// Doublings since the last sample.
    pub backoff: u32,
}

impl Rtt {
    /// A segment that was sent once came back acknowledged after `sample`.
    pub fn sample(&mut self, sample: u64) {
        let sample = sample.max(1000);
        if self.smoothed == 0 {
            (self.smoothed, self.deviation, self.least) = (sample, sample / 2, sample);
        } else {
            self.deviation = (3 * self.deviation + self.smoothed.abs_diff(sample)) / 4;
            self.smoothed = (7 * self.smoothed + sample) / 8;
            self.least = self.least.min(sample);
        }
        self.backoff = 0;
    }

    /// How long to wait for an acknowledgement.
    pub fn timeout(&self) -> u64 {
        let base = if self.smoothed == 0 { INITIAL } else { self.smoothed + (4 * self.deviation).max(MIN) };
        base.saturating_mul(1 << self.backoff.min(10)).min(MAX)
    }
}
