//! A proxy as networks of companies have them: it takes CONNECT, over TCP or TLS, with or without a login.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// What it does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It leads where it was told to lead, and answers 502 for anything else.
    Leads,
    /// It says this, and ends the connection.
    Says(&'static str),
    /// It ends the connection.
    Closes,
    /// It says nothing.
    Hangs,
    /// It leads there, and says more than it should first.
    Talks,
}

/// One CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Host and port.
    pub(crate) place: String,
    /// `user:password` of a Basic login.
    pub(crate) login: Option<String>,
}

struct Shared {
    leads: BTreeMap<String, SocketAddr>,
    login: Option<String>,
    manner: Mutex<Manner>,
    asked: Mutex<Vec<Asked>>,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Of the authority that vouches for it, in PEM.
    pub(crate) authority: String,
    shared: Arc<Shared>,
}

impl Proxy {
    /// At this address of the host, until the test's process ends. `leads`: where each place is.
    pub(crate) fn start(at: IpAddr, leads: &[(&str, SocketAddr)]) -> Self {
        Self::new(at, leads, None, false)
    }

    /// The same, with a login that it wants, and over TLS.
    pub(crate) fn new(
        at: IpAddr,
        leads: &[(&str, SocketAddr)],
        login: Option<&str>,
        secure: bool,
    ) -> Self {
        let listener = TcpListener::bind((at, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (authority, tls) = tls(at);
        let acceptor = secure.then(|| TlsAcceptor::from(Arc::new(tls)));
        let shared = Arc::new(Shared {
            leads: leads.iter().map(|(place, to)| ((*place).to_owned(), *to)).collect(),
            login: login.map(str::to_owned),
            manner: Mutex::new(Manner::Leads),
            asked: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((socket, _)) = listener.accept().await {
                    let (acceptor, shared) = (acceptor.clone(), Arc::clone(&served));
                    tokio::spawn(async move {
                        match acceptor {
                            None => serve(socket, &shared).await,
                            Some(acceptor) => {
                                if let Ok(socket) = acceptor.accept(socket).await {
                                    serve(socket, &shared).await;
                                }
                            }
                        }
                    });
                }
            });
        });
        Self { address, authority, shared }
    }

    /// What it does from now on.
    pub(crate) fn behaves(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// What it was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }

    /// The same, without logins.
    pub(crate) fn places(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.place).collect()
    }
}

async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let Some(rest) = head.strip_prefix("CONNECT ") else {
        let _ = socket.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n").await;
        return;
    };
    let place = rest.split(' ').next().unwrap_or_default().to_owned();
    assert!(head.contains(&format!("\r\nHost: {place}\r\n")), "{head}");
    let field = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: Basic "));
    let login = field.map(|field| {
        String::from_utf8(BASE64_STANDARD.decode(field).expect("it is base64")).unwrap()
    });
    shared.asked.lock().unwrap().push(Asked { place: place.clone(), login: login.clone() });
    let manner = *shared.manner.lock().unwrap();
    let answer = match manner {
        Manner::Says(answer) => answer,
        Manner::Closes => return,
        Manner::Hangs => return std::future::pending().await,
        Manner::Leads | Manner::Talks if login != shared.login => {
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 5\r\n\r\nlogin"
        }
        Manner::Leads | Manner::Talks => match shared.leads.get(&place) {
            None => "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
            Some(to) => {
                let Ok(mut upstream) = TcpStream::connect(to).await else { return };
                let mut said = b"HTTP/1.1 200 Connection established\r\nVia: corp\r\n\r\n".to_vec();
                if manner == Manner::Talks {
                    said.extend(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlies\n");
                }
                if socket.write_all(&said).await.is_ok() && socket.flush().await.is_ok() {
                    let _ = tokio::io::copy_bidirectional(&mut socket, &mut upstream).await;
                }
                return;
            }
        },
    };
    let _ = socket.write_all(answer.as_bytes()).await;
    let _ = socket.shutdown().await;
}

/// Who vouches for a server at this address, in PEM, and what serves it.
fn tls(at: IpAddr) -> (String, ServerConfig) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(at)];
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (authority, config)
}
