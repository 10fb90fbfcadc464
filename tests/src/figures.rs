//! How the benchmarks time what they do and say it.

use std::time::{Duration, Instant};

/// How long something takes that must go well.
///
/// # Errors
/// Those of the work.
pub async fn time<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    work.await?;
    Ok(begin.elapsed())
}

/// As [`time`], for what waits where it stands.
///
/// # Errors
/// Those of the work.
pub fn time_of<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}

/// Lower quartile, median, upper quartile.
#[must_use]
pub fn quartiles(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort();
    [1, 2, 3].map(|quarter| times.get(times.len() * quarter / 4).copied().unwrap_or_default())
}

/// The one in the middle.
#[must_use]
pub fn median(times: Vec<Duration>) -> Duration {
    let [_, median, _] = quartiles(times);
    median
}

/// One time as a part of another.
#[must_use]
pub fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64()
}
