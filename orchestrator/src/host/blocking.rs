//! Work that blocks, off the threads that others wait for. A runtime that shuts down cancels what has not begun: that is the
//! end of this process and no answer about a session, so whoever waits for it waits for ever, and the next start decides.

/// Runs the work; the error is its panic.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Ok(value),
        Err(error) if error.is_cancelled() => std::future::pending().await,
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_and_a_panic_are_answers() {
        assert_eq!(blocking(|| 7).await, Ok(7));
        assert!(blocking(|| panic!("on purpose")).await.is_err());
    }
}
