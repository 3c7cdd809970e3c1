//! Wakes a backend at a time. A tokio timer has a grain of a millisecond and costs a wake-up of its own driver;
//! on Linux a timerfd has neither. Knows no events. Invariant: never early by more than the clock's grain, and without
//! a timerfd it is tokio's timer.

use tokio::time::Instant;

#[cfg(target_os = "linux")]
mod system {
    use rustix::{
        io::Errno,
        time::{
            Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
        },
    };
    use std::os::fd::OwnedFd;
    use tokio::{
        io::{Interest, unix::AsyncFd},
        time::Instant,
    };

    /// A timerfd within tokio's reactor.
    #[derive(Debug)]
    pub(super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        pub(super) fn new() -> Option<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let fd = timerfd_create(TimerfdClockId::Monotonic, flags).ok()?;
            // SAFETY: the registration owns the only handle of the descriptor, never gives it out, and so closes it
            // after it has left the reactor.
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok().map(Self)
        }

        pub(super) async fn until(&self, at: Instant) {
            let wait = at.saturating_duration_since(Instant::now());
            if wait.is_zero() || self.set(wait).is_err() {
                // Due, or a timer that does not work: others get their turn, and the caller looks again.
                return tokio::task::yield_now().await;
            }
            if let Ok(mut fired) = self.0.readable().await {
                // Setting it again takes back what it counted; nothing has to be read.
                fired.clear_ready();
            }
        }

        fn set(&self, wait: std::time::Duration) -> Result<(), Errno> {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            let new = Itimerspec { it_interval: zero, it_value: value };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &new).map(drop)
        }
    }
}

/// One timer, set anew for each wait.
#[derive(Debug)]
pub struct Timer {
    #[cfg(target_os = "linux")]
    timer: Option<system::Timer>,
}

// === impl Timer ===

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl Timer {
    /// Within a tokio runtime.
    pub fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            timer: system::Timer::new(),
        }
    }

    /// Returns at this time; never without one. Cancel safe.
    pub async fn until(&self, at: Option<Instant>) {
        let Some(at) = at else { return std::future::pending().await };
        #[cfg(target_os = "linux")]
        if let Some(timer) = &self.timer {
            return timer.until(at).await;
        }
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn it_wakes_at_its_time_however_often_it_is_set() {
        let timer = Timer::new();
        let start = Instant::now();
        for nth in 1..=20 {
            let at = start + Duration::from_micros(300 * nth);
            // Forgotten waits leave nothing behind but a wake-up that is too early.
            let _cancelled =
                tokio::time::timeout(Duration::ZERO, timer.until(Some(at + Duration::from_secs(60)))).await;
            while Instant::now() < at {
                timer.until(Some(at)).await;
            }
        }
        assert!(tokio::time::timeout(Duration::from_millis(1), timer.until(None)).await.is_err());
    }
}
