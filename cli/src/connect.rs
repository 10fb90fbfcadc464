//! Reaching `cofferd`.

use std::time::Duration;

use coffer_client::Client;

use crate::command::Context;

/// How long a command that starts something waits for a `cofferd` that was itself only just started.
const STARTING: Duration = Duration::from_secs(10);

impl Context {
    /// A connection, or the error at once.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.socket, Duration::ZERO).await?)
    }

    /// A connection, also to a `cofferd` that is just starting.
    pub(crate) async fn client_patiently(&self) -> anyhow::Result<Client> {
        self.output.progress("waiting for cofferd");
        let client = Client::connect(&self.socket, STARTING).await;
        self.output.done();
        Ok(client?)
    }
}
