//! An HTTP client for one machine, on one connection that is kept, as iPXE's.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Method, Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use crate::Error;

/// How long firmware waits for the next byte, and for a connection.
const SILENCE: Duration = Duration::from_secs(60);
/// Most of an answer that is kept.
const KEPT: usize = 64 << 10;
/// How often a connection that broke, or an answer 503, is tried again.
const TRIES: u32 = 4;

/// What came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    /// The first [`KEPT`] bytes.
    pub text: Vec<u8>,
    /// All bytes of the body.
    pub bytes: u64,
}

/// A machine's client.
pub(crate) struct Client {
    local: Ipv4Addr,
    connection: Option<(String, SendRequest<Full<Bytes>>)>,
    /// Requests that were made again.
    pub retries: u32,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub uri: Uri,
    pub method: Method,
    pub body: Bytes,
    /// The first bytes only.
    pub first: Option<u64>,
}

impl Ask {
    pub fn get(uri: Uri) -> Self {
        Self { uri, method: Method::GET, body: Bytes::new(), first: None }
    }
}

impl Client {
    /// A client whose connections come from `local`.
    pub fn new(local: Ipv4Addr) -> Self {
        Self { local, connection: None, retries: 0 }
    }

    /// Asks, again when the connection breaks or the server is busy, and takes statuses 2xx only.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let problem = match self.once(ask).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                    Error::Refused(format!("status {}", answer.status))
                }
                Ok(answer) => {
                    let path = ask.uri.path();
                    return Err(Error::Refused(format!("status {} for {path}", answer.status)));
                }
                Err(error @ Error::Io { .. }) => error,
                Err(error) => return Err(error),
            };
            self.connection = None;
            if tries == TRIES {
                return Err(problem);
            }
            self.retries += 1;
            sleep(Duration::from_secs(1 << tries)).await;
        }
    }

    async fn once(&mut self, ask: &Ask) -> Result<Answer, Error> {
        let response = match timeout(SILENCE, self.send(ask)).await {
            Ok(response) => response?,
            Err(_) => return Err(silent("HTTP answer")),
        };
        let status = response.status();
        let mut body = response.into_body();
        let (mut text, mut bytes) = (Vec::new(), 0);
        loop {
            match timeout(SILENCE, body.frame()).await {
                Ok(None) => return Ok(Answer { status, text, bytes }),
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    bytes += data.len() as u64;
                    let room = KEPT.saturating_sub(text.len()).min(data.len());
                    text.extend_from_slice(data.get(..room).unwrap_or_default());
                }
                Ok(Some(Err(error))) => return Err(broken("receiving HTTP")(error)),
                Err(_) => return Err(silent("further bytes by HTTP")),
            }
        }
    }

    async fn send(&mut self, ask: &Ask) -> Result<Response<hyper::body::Incoming>, Error> {
        let host = ask.uri.authority().map(ToString::to_string).unwrap_or_default();
        let kept = self.connection.take().filter(|(to, sender)| *to == host && !sender.is_closed());
        let (_, mut sender) = match kept {
            Some(kept) => kept,
            None => (host.clone(), self.connect(&ask.uri).await?),
        };
        sender.ready().await.map_err(broken("waiting for a kept HTTP connection"))?;
        let path = ask.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(&ask.method).uri(path);
        request = request.header(header::HOST, &host).header(header::USER_AGENT, "iPXE/1.21.1");
        if let Some(last) = ask.first.map(|first| first.saturating_sub(1)) {
            request = request.header(header::RANGE, format!("bytes=0-{last}"));
        }
        if ask.method == Method::POST {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(ask.body.clone()));
        let request = request.map_err(|error| Error::Wrong(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken("asking by HTTP"))?;
        self.connection = Some((host, sender));
        Ok(response)
    }

    async fn connect(&self, uri: &Uri) -> Result<SendRequest<Full<Bytes>>, Error> {
        let ip: Ipv4Addr = uri
            .host()
            .and_then(|host| host.parse().ok())
            .ok_or_else(|| Error::Wrong(format!("{uri} is no URL with an address")))?;
        let to = SocketAddr::from((ip, uri.port_u16().unwrap_or(80)));
        let open = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(64 << 10)?;
            socket.bind((self.local, 0).into())?;
            Ok(socket)
        };
        let socket: TcpSocket = open().map_err(Error::io("opening a socket for HTTP"))?;
        let stream = socket.connect(to).await.map_err(Error::io("connecting by HTTP"))?;
        let made = Builder::new().max_buf_size(16 << 10).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(broken("connecting by HTTP"))?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn silent(what: &'static str) -> Error {
    Error::Silent { what, seconds: SILENCE.as_secs() }
}

fn broken(doing: &'static str) -> impl FnOnce(hyper::Error) -> Error {
    move |error| Error::Io { doing, source: std::io::Error::other(error) }
}
