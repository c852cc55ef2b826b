//! What all servers share: binding, announcing, shutting down.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{Error, Result};

/// How long requests under way may take after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// Binds `address`.
pub(crate) async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::PortInUse(address),
        _ => Error::Io { doing: format!("could not listen on {address}"), source },
    })?;
    let bound = listener.local_addr().map_err(Error::io("could not read the bound address"))?;
    Ok((listener, bound))
}

/// Says on standard output where `name` listens, then serves until SIGTERM or SIGINT.
pub(crate) async fn serve(name: &str, listener: TcpListener, router: Router) -> Result<()> {
    let address = listener.local_addr().map_err(Error::io("could not read the bound address"))?;
    let mut signals = Signals::new()?;
    // Whoever started this may not read its output; that is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{name} listens on http://{address}");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let graceful = {
        let mut stopped = stopped.clone();
        // An error means that the sender is gone, which is a reason to stop too.
        async move { drop(stopped.wait_for(|&stop| stop).await) }
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(graceful).into_future();
    tokio::pin!(server);
    tokio::select! {
        result = &mut server => return result.map_err(Error::io(format!("{name} failed"))),
        _ = signals.next() => {}
    }
    let _ = stop.send(true);
    // Connections that do not end in time are cut.
    tokio::time::timeout(GRACE, server).await.unwrap_or(Ok(())).map_err(Error::io(format!("{name} failed")))
}

/// SIGINT and SIGTERM.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        let on = |kind| signal(kind).map_err(Error::io("could not handle signals"));
        Ok(Self { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }

    /// Waits for one; its exit code (128 + number).
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}
