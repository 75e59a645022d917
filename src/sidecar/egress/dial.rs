//! Connections to addresses that were checked, and to the operator's proxy.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

use super::limits;
use super::trouble::Trouble;
use crate::sidecar::{CheckedAddr, Cidr, Code};

/// Which of the addresses of a name may be dialled, in the order in which to try them: as the
/// resolver gave them, the two families in turn.
pub(super) fn checked(
    addresses: &[IpAddr],
    port: u16,
    exceptions: &[Cidr],
    forbidden: &[IpAddr],
) -> Result<Vec<CheckedAddr>, Trouble> {
    if addresses.is_empty() {
        return Err(Code::UpstreamDns.into());
    }
    let check =
        |ip: &IpAddr| CheckedAddr::check(SocketAddr::new(*ip, port), exceptions, forbidden).ok();
    let (v4, v6): (Vec<_>, Vec<_>) =
        addresses.iter().filter_map(check).partition(|address| address.get().is_ipv4());
    let mut turns = Vec::with_capacity(v4.len() + v6.len());
    let (mut v4, mut v6) = (v4.into_iter(), v6.into_iter());
    loop {
        match (v4.next(), v6.next()) {
            (None, None) => break,
            (first, second) => turns.extend(first.into_iter().chain(second)),
        }
    }
    turns.truncate(limits::DIAL_ADDRESSES);
    if turns.is_empty() { Err(Trouble::denied(addresses, forbidden)) } else { Ok(turns) }
}

/// Connects to the first of them that answers. One that is slow gets company.
pub(super) async fn dial<A: Copy>(
    addresses: &[A],
    place: impl Fn(&A) -> SocketAddr,
) -> Result<(TcpStream, A), Code> {
    let place = &place;
    let attempt = |address: A| async move {
        let stream = TcpStream::connect(place(&address)).await?;
        stream.set_nodelay(true)?;
        Ok::<_, io::Error>((stream, address))
    };
    let race = async {
        let mut left = addresses.iter().copied();
        let mut running = FuturesUnordered::new();
        running.extend(left.next().map(attempt));
        while !running.is_empty() {
            let stagger = async {
                if left.len() == 0 {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(limits::DIAL_STAGGER).await;
            };
            tokio::select! {
                biased;
                result = running.next() => match result {
                    Some(Ok(connected)) => return Ok(connected),
                    _ => running.extend(left.next().map(attempt)),
                },
                () = stagger => running.extend(left.next().map(attempt)),
            }
        }
        Err(Code::UpstreamUnreachable)
    };
    tokio::time::timeout(limits::DIAL, race).await.unwrap_or(Err(Code::UpstreamUnreachable))
}
