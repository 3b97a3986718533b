//! A CNAPI in the booter's namespace.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use sdc_storm::cnapi::{self, Registered};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Lab, within};

/// Where the booter looks for it.
pub const CNAPI: &str = "10.99.0.7:8010";

/// It serves until it is stopped.
pub struct Standin {
    stop: CancellationToken,
    thread: JoinHandle<()>,
    pub registered: Registered,
}

impl Standin {
    /// All machines boot this platform.
    pub fn start(lab: &Lab, platform: &'static str) -> Self {
        Self::new(lab, Some(platform))
    }

    /// It takes connections and never answers.
    pub fn hanging(lab: &Lab) -> Self {
        Self::new(lab, None)
    }

    fn new(lab: &Lab, platform: Option<&'static str>) -> Self {
        let stop = CancellationToken::new();
        let registered = Registered::default();
        let (token, count) = (stop.clone(), registered.clone());
        let (ready, listening) = mpsc::channel();
        let thread = within(&lab.server, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::bind(CNAPI).await.unwrap();
                ready.send(()).unwrap();
                let serving = async {
                    match platform {
                        Some(platform) => cnapi::serve(listener, platform, count).await,
                        None => cnapi::hang(listener).await,
                    }
                };
                tokio::select! {
                    () = token.cancelled() => {}
                    ended = serving => ended.unwrap(),
                }
            });
        });
        listening.recv_timeout(Duration::from_secs(20)).unwrap();
        Self { stop, thread, registered }
    }

    pub fn stop(self) {
        self.stop.cancel();
        self.thread.join().unwrap();
    }
}
