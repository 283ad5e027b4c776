//! What time it is: the system's clock, or a simulated one that goes on when it is told to.

use std::time::{Duration, Instant};

/// A machine's clock.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    #[cfg(feature = "sim")]
    simulated: Option<Simulated>,
}

#[cfg(feature = "sim")]
#[derive(Clone, Debug)]
struct Simulated {
    start: Instant,
    nanoseconds: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Clock {
    /// A clock that stands still but for [`Clock::advance`]. Its clones go with it.
    #[cfg(feature = "sim")]
    pub fn simulated() -> Clock {
        let nanoseconds = std::sync::Arc::default();
        Clock { simulated: Some(Simulated { start: Instant::now(), nanoseconds }) }
    }

    /// Lets time pass.
    ///
    /// # Panics
    /// If it is the system's clock.
    #[cfg(feature = "sim")]
    pub fn advance(&self, time: Duration) {
        let Some(simulated) = &self.simulated else { panic!("the system's clock goes by itself") };
        simulated.nanoseconds.fetch_add(time.as_nanos() as u64, std::sync::atomic::Ordering::Relaxed);
    }

    /// The moment.
    #[inline]
    pub fn now(&self) -> Instant {
        #[cfg(feature = "sim")]
        if let Some(Simulated { start, nanoseconds }) = &self.simulated {
            return *start + Duration::from_nanos(nanoseconds.load(std::sync::atomic::Ordering::Relaxed));
        }
        Instant::now()
    }

    /// How long ago a moment was; nothing if it is to come.
    #[inline]
    pub fn since(&self, moment: Instant) -> Duration {
        self.now().saturating_duration_since(moment)
    }
}
