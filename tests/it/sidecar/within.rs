//! Archives of some megabytes that lie within a body: as `curl -F` and most uploaders send them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::disguises::{KNOWN, tar, vendors, world, zip};
use super::memory::bounded;
use super::packing::{brotli, deflate, gzip, zlib};
use super::tunnel::handshake;
use super::world::World;

/// The parts of a form.
fn form(files: &[&[u8]]) -> Vec<u8> {
    form_saying("", files)
}

/// The same, with these fields in the head of each.
fn form_saying(fields: &str, files: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    for file in files {
        body.extend(
            b"--b0undary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n",
        );
        body.extend(fields.as_bytes());
        body.extend(b"Content-Type: application/octet-stream\r\n\r\n");
        body.extend(*file);
        body.extend(b"\r\n");
    }
    body.extend(b"--b0undary\r\nContent-Disposition: form-data; name=\"last\"\r\n\r\nyes\r\n");
    body.extend(b"--b0undary--\r\n");
    body
}

const TYPE: &str = "multipart/form-data; boundary=b0undary";

/// A way in which a body is sent.
#[derive(Debug, Clone, Copy)]
enum Way {
    Length,
    Chunks,
    Http2,
}

/// Sends it; the status and the code of the answer.
async fn send(world: &World, way: Way, body: &[u8]) -> (u16, String) {
    let head =
        format!("POST /length HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: {TYPE}\r\n");
    let (head, end) = match way {
        Way::Length => (format!("{head}Content-Length: {}\r\n\r\n", body.len()), &b""[..]),
        Way::Chunks => (
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()),
            &b"\r\n0\r\n\r\n"[..],
        ),
        Way::Http2 => {
            let stream = world.inside_http2("api.example.com:443").await;
            let (mut sender, connection) = handshake(stream).await;
            tokio::spawn(connection);
            let request = hyper::Request::post("https://api.example.com/length")
                .header("content-type", TYPE)
                .body(Bytes::copy_from_slice(body).into());
            let answer = sender.send_request(request.unwrap()).await.unwrap();
            let status = answer.status().as_u16();
            let page = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
            let page: serde_json::Value =
                serde_json::from_slice(&page.to_bytes()).unwrap_or_default();
            return (status, page["code"].as_str().unwrap_or_default().to_owned());
        }
    };
    let mut client = world.inside("api.example.com:443").await;
    let answer = client.ask([head.as_bytes(), body, end].concat()).await;
    (answer.status, answer.code().to_owned())
}

/// D06: they are opened as they stream, in every part of a form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_within_a_body_that_streams_is_opened() {
    let world = world().await;
    let mut noise = vec![0; 3 << 20];
    getrandom::fill(&mut noise).unwrap();
    let with = |secret: &str| {
        let (one, other) = noise.split_at(2 << 20);
        [one, format!("\ntoken: {secret}\n").as_bytes(), other].concat()
    };
    let clean = with("nothing");
    let (known, token) = (with(KNOWN), with(&vendors()));
    for (name, way, body) in [
        ("zip", Way::Length, form(&[&zip(&known, true)])),
        ("gzip", Way::Chunks, form(&[&gzip(&known)])),
        ("zip in zlib behind bytes", Way::Http2, [&noise[..9], &zlib(&zip(&known, true))].concat()),
        ("zip", Way::Http2, form(&[&zip(&token, true)])),
        ("gzip", Way::Length, form(&[&gzip(&token)])),
        ("tar.gz behind a zip", Way::Chunks, form(&[&zip(&clean, false), &gzip(&tar(&token))])),
    ] {
        let answer = send(&world, way, &body).await;
        assert_eq!(answer.0, 403, "{name}: {answer:?}");
        let codes = ["known-secret:API_TOKEN", "dlp:github-token"];
        assert!(codes.contains(&answer.1.as_str()), "{name}: {answer:?}");
    }
    for (way, body) in [
        (Way::Length, form(&[&zip(&clean, true), &gzip(&clean)])),
        (Way::Chunks, form(&[&gzip(&tar(&clean)), b"a file of text"])),
        (Way::Http2, form(&[&zip(&clean, false)])),
    ] {
        world.upstream.forget();
        assert_eq!(send(&world, way, &body).await.0, 200, "{way:?}");
        let arrived = world.upstream.arrived();
        assert!(arrived.iter().any(|arrived| arrived.whole && arrived.body == body), "{way:?}");
    }
    looked_into(&world);
    bounded(&world);
    // Written in escapes it is not, which the log says.
    let escaped = |byte: &u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let file: String = zip(&clean, true).iter().map(escaped).collect();
    assert_eq!(send(&world, Way::Length, format!("file={file}").as_bytes()).await.0, 200);
    let told = ["allow", "warn"].map(|event| world.log(event)).concat();
    assert!(told.iter().any(|line| line["unscanned_reason"] == "archive_streamed"), "{told:?}");
}

/// D06: and where they are written in base64, as in JSON and in mail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_in_base64_within_a_body_that_streams_is_opened() {
    let world = world().await;
    let mut noise = vec![0; 2 << 20];
    getrandom::fill(&mut noise).unwrap();
    let with = |secret: &str| [&noise[..], format!("\ntoken: {secret}\n").as_bytes()].concat();
    let json = |packed: &[u8], with: &str| {
        let base64 = STANDARD.encode(packed);
        let lines = base64.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap());
        let lines: Vec<&str> = lines.collect();
        format!("{{\"name\":\"a\",\"file\":\"{}\",\"more\":1}}", lines.join(with)).into_bytes()
    };
    let (known, token, clean) = (with(KNOWN), with(&vendors()), with("nothing"));
    for (name, way, body) in [
        ("zip", Way::Length, json(&zip(&known, true), "")),
        ("gzip in lines", Way::Chunks, json(&gzip(&token), "\\n")),
        ("tar.gz", Way::Http2, json(&gzip(&tar(&token)), "")),
        (
            "behind another",
            Way::Length,
            [json(&gzip(&clean), ""), json(&zlib(&known), "")].concat(),
        ),
    ] {
        let answer = send(&world, way, &body).await;
        assert_eq!(answer.0, 403, "{name}: {answer:?}");
    }
    let body = json(&zip(&clean, true), "\\r\\n");
    assert_eq!(send(&world, Way::Chunks, &body).await.0, 200);
    assert!(world.upstream.arrived().iter().any(|arrived| arrived.whole && arrived.body == body));
    looked_into(&world);
    bounded(&world);
}

/// D06: what the head of a part says is undone, in a body that is held and in one that streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_says_how_it_is_packed_is_opened() {
    let world = world().await;
    let mut noise = vec![0; 2 << 20];
    getrandom::fill(&mut noise).unwrap();
    let base64 = |body: Vec<u8>| STANDARD.encode(body).into_bytes();
    for length in [1 << 10, 2 << 20] {
        let with = |secret: &str| {
            let noise = hex::encode(&noise[..length / 2]);
            format!("{noise}\ntoken: {secret}\n{noise}").into_bytes()
        };
        let (known, token, clean) = (with(KNOWN), with(&vendors()), with("nothing"));
        let fields =
            |coding: &str, transfer: &str| format!("Content-Encoding: {coding}\r\n{transfer}");
        let transfer = "Content-Transfer-Encoding: base64\r\n";
        for (fields, way, body) in [
            (fields("br", ""), Way::Length, brotli(&known)),
            (fields("deflate", ""), Way::Chunks, deflate(&token)),
            (fields("gzip", ""), Way::Http2, gzip(&token)),
            (fields("br", transfer), Way::Http2, base64(brotli(&token))),
            (fields("br, gzip", transfer), Way::Length, base64(gzip(&brotli(&known)))),
        ] {
            let answer = send(&world, way, &form_saying(&fields, &[&body])).await;
            assert_eq!(answer.0, 403, "{fields}: {answer:?}");
        }
        world.upstream.forget();
        let body = form_saying(&fields("br", transfer), &[&base64(brotli(&clean))]);
        assert_eq!(send(&world, Way::Length, &body).await.0, 200);
        assert!(
            world.upstream.arrived().iter().any(|arrived| arrived.whole && arrived.body == body)
        );
    }
    bounded(&world);
}

/// D06: the name of a file that a gzip file has, where that is the coding of a body that streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_in_a_packed_body_that_streams_is_searched() {
    let world = world().await;
    let mut noise = vec![0; 2 << 20];
    getrandom::fill(&mut noise).unwrap();
    let gzip = |name: &str| {
        let mut writer =
            flate2::GzBuilder::new().filename(name).write(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut writer, &noise).unwrap();
        writer.finish().unwrap()
    };
    for (name, status) in [(KNOWN, 403), (&*vendors(), 403), ("a.txt", 200)] {
        let body = gzip(name);
        let head = format!(
            "POST /length HTTP/1.1\r\nHost: api.example.com\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut client = world.inside("api.example.com:443").await;
        let answer = client.ask([head.as_bytes(), &body].concat()).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
    }
}

/// Nothing that was let through was passed over.
#[track_caller]
fn looked_into(world: &World) {
    let passed = world.log("allow").into_iter().filter(|line| line.get("unscanned").is_some());
    assert_eq!(passed.collect::<Vec<_>>(), Vec::<serde_json::Value>::new());
}
