//! What stands where a TLS handshake is expected: T.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::{World, allowing};

/// A TLS handshake's first message, with these entries in its list of names.
fn hello(extensions: &[&[&[u8]]]) -> Vec<u8> {
    fn sized(length: usize, width: usize) -> Vec<u8> {
        (length as u64).to_be_bytes()[8 - width..].to_vec()
    }
    fn with_length(bytes: &[u8], width: usize) -> Vec<u8> {
        [sized(bytes.len(), width), bytes.to_vec()].concat()
    }
    fn extension(number: u8, data: &[u8]) -> Vec<u8> {
        [vec![0, number], with_length(data, 2)].concat()
    }
    let mut list = Vec::new();
    for names in extensions {
        let entries: Vec<u8> =
            names.iter().flat_map(|name| [vec![0], with_length(name, 2)].concat()).collect();
        list.extend(extension(0, &with_length(&entries, 2)));
    }
    list.extend(extension(10, &[0, 2, 0, 29]));
    list.extend(extension(13, &[0, 4, 4, 3, 8, 4]));
    list.extend(extension(43, &[2, 3, 4]));
    let point = [&[0, 29, 0, 32][..], &[9; 32]].concat();
    list.extend(extension(51, &with_length(&point, 2)));
    let suites = with_length(&[0x13, 1, 0x13, 2, 0x13, 3], 2);
    let body = [&[3, 3][..], &[7; 32], &[0], &suites, &[1, 0], &with_length(&list, 2)].concat();
    let message = [&[1][..], &with_length(&body, 3)].concat();
    [&[0x16, 3, 1][..], &with_length(&message, 2)].concat()
}

/// T01, T06, H06: the one name in a handshake is the host of the CONNECT, in the spellings that name
/// the same host, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_names_one_host() {
    let world = World::start(allowing(&["api.example.com", "other.example.com"])).await;
    let api: &[u8] = b"api.example.com";
    for same in [api, b"API.Example.COM", b"api.example.com."] {
        let (mut client, _) = world.connect("api.example.com:443").await;
        client.send(hello(&[&[same]])).await;
        let mut first = [0; 6];
        client.stream.read_exact(&mut first).await.expect("an answer");
        assert_eq!((first[0], first[5]), (0x16, 2), "{}: it is served", same.escape_ascii());
    }
    let refused: &[&[&[&[u8]]]] = &[
        &[],
        &[&[]],
        &[&[b""]],
        &[&[b"."]],
        &[&[b"evil.test"]],
        &[&[b"other.example.com"]],
        &[&[b"xapi.example.com"]],
        &[&[b"api.example.com.evil.test"]],
        &[&[b"api.example.com.."]],
        &[&[b".api.example.com"]],
        &[&[b"*.example.com"]],
        &[&[b"api.example.com:443"]],
        &[&[b"api.example.com/"]],
        &[&[b"user@api.example.com"]],
        &[&[b" api.example.com"]],
        &[&[b"api.example.com\0"]],
        &[&[b"api.example.com\0.evil.test"]],
        &[&[b"evil.test\0api.example.com"]],
        &[&[b"api%2eexample.com"]],
        &[&["api\u{3002}example.com".as_bytes()]],
        &[&[b"\xffapi.example.com"]],
        &[&[b"93.184.216.34"]],
        &[&[b"[::1]"]],
        &[&[b"::1"]],
        &[&[api, b"evil.test"]],
        &[&[b"evil.test", api]],
        &[&[api, api]],
        &[&[api], &[b"evil.test"]],
        &[&[b"evil.test"], &[api]],
        &[&[api], &[api]],
    ];
    for (count, names) in refused.iter().enumerate() {
        let (mut client, _) = world.connect("api.example.com:443").await;
        client.send(hello(names)).await;
        let rest = client.rest().await;
        assert!(rest.is_empty() || rest[0] == 0x15, "{names:?}: no more than an alert: {rest:?}");
        let denials = world.wait_for("deny", count + 1).await;
        let code = denials[count]["code"].as_str().unwrap();
        assert!(["sni_mismatch", "not_tls"].contains(&code), "{names:?}: {code}");
        world.untouched();
    }
}

/// What else can stand where TLS is expected. T07, T12.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_end_where_tls_is_expected() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let whole = hello(&[&[b"api.example.com"]]);
    let cut = whole.len() - 20;
    // Versions that nobody speaks any more, lengths that lie, and messages out of turn.
    let mut long = whole.clone();
    long[3..5].copy_from_slice(&[0xff, 0xff]);
    let mut lying = whole.clone();
    lying[6..9].copy_from_slice(&[0xff, 0xff, 0xff]);
    let mut other = whole.clone();
    other[5] = 2;
    let mut application = whole.clone();
    application[0] = 0x17;
    let raw: Vec<Vec<u8>> = vec![
        b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n".to_vec(),
        b"POST / HTTP/1.0\r\n\r\n".to_vec(),
        b"\x05\x01\x00".to_vec(),
        b"\x04\x01\x01\xbb\x00\x00\x00\x01x\0evil.test\0".to_vec(),
        b"EHLO a.example.com\r\n".to_vec(),
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f".to_vec(),
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 443\r\n".to_vec(),
        [b"\r\n\r\n\0\r\nQUIT\n".to_vec(), whole.clone()].concat(),
        long,
        lying,
        other,
        application,
        vec![0x16, 3, 1, 0, 0],
        vec![0x15, 3, 1, 0, 2, 1, 0],
        vec![0xff; 40],
    ];
    for (count, bytes) in raw.iter().enumerate() {
        let (mut client, head) = world.connect("api.example.com:443").await;
        assert_eq!(head.status, 200);
        client.send(bytes).await;
        let _ = client.stream.shutdown().await;
        let rest = client.rest().await;
        assert!(rest.len() <= 7, "{}: no more than an alert", bytes.escape_ascii());
        let denials = world.wait_for("deny", count + 1).await;
        assert_eq!(denials[count]["code"], "not_tls", "{}", bytes.escape_ascii());
        world.untouched();
    }
    // A handshake that goes on no further is no request, and asks nobody anything.
    let (mut client, _) = world.connect("api.example.com:443").await;
    client.send(&whole[..cut]).await;
    let _ = client.stream.shutdown().await;
    client.rest().await;
    world.untouched();
}
