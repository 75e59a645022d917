use std::net::Ipv4Addr;

use super::*;

const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn begins(token: &[u8], address: IpAddr, port: u16) -> Vec<u8> {
    let mut bytes = HELLO.to_vec();
    bytes.extend_from_slice(token);
    match address {
        IpAddr::V4(address) => {
            bytes.push(V4);
            bytes.extend(port.to_be_bytes());
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(V6);
            bytes.extend(port.to_be_bytes());
            bytes.extend(address.octets());
        }
    }
    bytes
}

async fn said(bytes: &[u8]) -> io::Result<Result<(), Not>> {
    let token = Token::parse(TOKEN).unwrap();
    hello(&mut &*bytes, &token).await
}

#[tokio::test]
async fn only_connections_to_the_sidecar_are_admitted() {
    let token = hex::decode(TOKEN).unwrap();
    let here = IpAddr::V4(Ipv4Addr::new(100, 96, 0, 1));
    assert!(matches!(said(&begins(&token, here, 3128)).await, Ok(Ok(()))));
    for (address, port) in [
        (here, 22),
        (here, 3129),
        ("93.184.216.34".parse().unwrap(), 3128),
        ("127.0.0.1".parse().unwrap(), 3128),
        ("::1".parse().unwrap(), 3128),
        // The same address in another notation is not the same.
        ("::ffff:100.96.0.1".parse().unwrap(), 3128),
    ] {
        match said(&begins(&token, address, port)).await {
            Ok(Err(Not::Here(meant))) => assert_eq!(meant, SocketAddr::new(address, port)),
            _ => panic!("{address} {port}"),
        }
    }
}

#[tokio::test]
async fn nobody_else_is_admitted() {
    let token = hex::decode(TOKEN).unwrap();
    let here = IpAddr::V4(Ipv4Addr::new(100, 96, 0, 1));
    for bit in 0..256 {
        let mut wrong = token.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(said(&begins(&wrong, here, 3128)).await, Ok(Err(Not::Ours))));
    }
    let mut other = begins(&token, here, 3128);
    other[8] = 2;
    assert!(matches!(said(&other).await, Ok(Err(Not::Ours))), "another version");
    let request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    assert!(matches!(said(request).await, Ok(Err(Not::Ours))));
    let whole = begins(&token, here, 3128);
    for length in 0..whole.len() {
        assert!(said(&whole[..length]).await.is_err(), "cut at {length}");
    }
    let mut family = whole;
    family[41] = 5;
    assert!(said(&family).await.is_err());
    for text in ["", "00", &TOKEN[1..], &format!("{TOKEN}0"), &TOKEN.replace('a', "g")] {
        assert!(Token::parse(text).is_err(), "{text}");
    }
}
