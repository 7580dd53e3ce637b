//! How much may be in flight: CUBIC (RFC 9438) and Reno (RFC 5681), with proportional rate reduction (RFC 6937) in recovery.

/// Which of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// The default, as in Linux.
    #[default]
    Cubic,
    /// Additive increase, halving.
    Reno,
}

impl Algorithm {
    /// By its name as TCP_CONGESTION has it.
    pub fn named(name: &[u8]) -> Option<Algorithm> {
        match name {
            b"cubic" => Some(Algorithm::Cubic),
            b"reno" => Some(Algorithm::Reno),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Cubic => "cubic",
            Algorithm::Reno => "reno",
        }
    }
}

/// Segments that may be sent before anything is acknowledged (RFC 6928).
const INITIAL: u32 = 10;
/// CUBIC's C and beta.
const C: f64 = 0.4;
const BETA: f64 = 0.7;

/// The congestion window.
#[derive(Clone, Debug)]
pub struct Congestion {
    algorithm: Algorithm,
    /// Bytes that may be in flight.
    pub window: u32,
    /// Below it the window grows exponentially.
    pub threshold: u32,
    /// Bytes acknowledged that have not enlarged the window yet.
    credit: u32,
    /// The window before the last reduction, in segments, and when the present epoch began.
    max: f64,
    epoch: Option<u64>,
    /// Seconds until the curve reaches `max`.
    k: f64,
    /// What Reno's window would be, in segments.
    reno: f64,
    /// PRR: in flight when recovery began, delivered since, sent since.
    prr: (u32, u32, u32),
}

impl Congestion {
    /// For a new connection.
    pub fn new(algorithm: Algorithm, mss: u32) -> Congestion {
        Congestion {
            algorithm,
            window: INITIAL * mss,
            threshold: u32::MAX,
            credit: 0,
            max: 0.0,
            epoch: None,
            k: 0.0,
            reno: 0.0,
            prr: (0, 0, 0),
        }
    }

    /// Which algorithm it is.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Changes the algorithm.
    pub fn set_algorithm(&mut self, algorithm: Algorithm) {
        self.algorithm = algorithm;
        self.epoch = None;
    }

    /// `acked` new bytes are acknowledged outside recovery, while the window was in full use.
    pub fn on_ack(&mut self, acked: u32, mss: u32, now: u64, srtt: u64) {
        if self.window < self.threshold {
            // At most two segments for each acknowledgement of many would be too few behind a receiver that merges: take it whole.
            self.window = self.window.saturating_add(acked).min(self.threshold.max(self.window));
            return;
        }
        let segments = f64::from(self.window) / f64::from(mss.max(1));
        let per_window = match self.algorithm {
            Algorithm::Reno => segments,
            Algorithm::Cubic => self.cubic(segments, f64::from(acked) / f64::from(mss.max(1)), now, srtt),
        };
        self.credit = self.credit.saturating_add(acked);
        let step = (per_window * f64::from(mss)).max(1.0) as u32;
        while self.credit >= step {
            self.credit -= step;
            self.window = self.window.saturating_add(mss);
        }
    }

    /// Acknowledged segments for which the window grows by one.
    fn cubic(&mut self, segments: f64, acked: f64, now: u64, srtt: u64) -> f64 {
        let start = *self.epoch.get_or_insert_with(|| {
            self.reno = segments;
            self.k = if segments < self.max { ((self.max - segments) / C).cbrt() } else { 0.0 };
            self.max = self.max.max(segments);
            now
        });
        let t = (now.saturating_sub(start) + srtt) as f64 / 1e9;
        let target = C * (t - self.k).powi(3) + self.max;
        // alpha of RFC 9438, 4.3
        self.reno += 3.0 * (1.0 - BETA) / (1.0 + BETA) * acked / segments.max(1.0);
        let target = target.max(self.reno).min(segments * 1.5);
        if target > segments { segments / (target - segments) } else { 100.0 * segments }
    }

    fn reduced(&mut self, flight: u32, mss: u32) -> u32 {
        let basis = match self.algorithm {
            Algorithm::Reno => flight / 2,
            Algorithm::Cubic => {
                let segments = f64::from(self.window) / f64::from(mss.max(1));
                // Fast convergence: leave room if the last maximum was not reached again.
                self.max = if segments < self.max { segments * (1.0 + BETA) / 2.0 } else { segments };
                (f64::from(self.window) * BETA) as u32
            }
        };
        self.epoch = None;
        self.credit = 0;
        basis.max(2 * mss)
    }

    /// Loss was found; recovery begins with `flight` bytes on their way.
    pub fn enter_recovery(&mut self, flight: u32, mss: u32) {
        self.threshold = self.reduced(flight, mss);
        self.prr = (flight.max(1), 0, 0);
    }

    /// `delivered` bytes have arrived while in recovery; `flight` are on their way.
    pub fn in_recovery(&mut self, delivered: u32, flight: u32, mss: u32) {
        self.prr.1 = self.prr.1.saturating_add(delivered);
        let (begin, all, out) = self.prr;
        let room = if flight > self.threshold {
            let allowed = (u64::from(all) * u64::from(self.threshold)).div_ceil(u64::from(begin));
            u32::try_from(allowed).unwrap_or(u32::MAX).saturating_sub(out)
        } else {
            (self.threshold - flight).min(all.saturating_sub(out).max(delivered).saturating_add(mss))
        };
        // The first retransmission always goes out.
        let room = if out == 0 { room.max(mss) } else { room };
        self.window = flight.saturating_add(room);
    }

    /// Bytes were sent while in recovery.
    pub fn sent_in_recovery(&mut self, bytes: u32) {
        self.prr.2 = self.prr.2.saturating_add(bytes);
    }

    /// All that was on its way when recovery began has arrived.
    pub fn leave_recovery(&mut self) {
        self.window = self.threshold;
    }

    /// The retransmission timer expired. `again`: not for the first time.
    pub fn on_timeout(&mut self, flight: u32, mss: u32, again: bool) {
        if !again {
            self.threshold = self.reduced(flight, mss);
        }
        self.window = mss;
    }

    /// Nothing was sent for longer than the retransmission timeout: what is known of the path is old (RFC 2861).
    pub fn after_idle(&mut self, mss: u32) {
        self.window = self.window.min(INITIAL * mss);
        self.epoch = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_shrinks() {
        for algorithm in [Algorithm::Cubic, Algorithm::Reno] {
            let mut c = Congestion::new(algorithm, 1000);
            c.on_ack(10_000, 1000, 0, 1_000_000);
            assert_eq!(c.window, 20_000);
            c.enter_recovery(20_000, 1000);
            assert!(c.threshold < 20_000 && c.threshold >= 10_000);
            c.in_recovery(1000, 19_000, 1000);
            assert!(c.window >= 20_000);
            c.leave_recovery();
            let before = c.window;
            for i in 1..2000u64 {
                c.on_ack(c.window, 1000, i * 10_000_000, 10_000_000);
            }
            assert!(c.window > before * 2, "{algorithm:?} {}", c.window);
            c.on_timeout(before, 1000, false);
            assert_eq!(c.window, 1000);
        }
    }
}
