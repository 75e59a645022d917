//! Bodies that are small and say that they are large. D17.

use std::time::Duration;

use super::memory::bounded;
use super::packing::{deflate, gzip};
use super::world::{World, allowing};

/// A frame of Zstandard: its window's exponent, and so many blocks of 128 KiB of one byte each.
fn zstd(window: u8, blocks: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (window - 10) << 3];
    for number in 0..blocks {
        let last = u32::from(number + 1 == blocks);
        let head = last | 1 << 1 | (128 << 10) << 3;
        frame.extend(&head.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// One file in a zip, which says that it is so long.
fn zip(packed: &[u8], says: u32, files: usize) -> Vec<u8> {
    let mut common = vec![20, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    common.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
    common.extend(says.to_le_bytes());
    common.extend([1, 0, 0, 0]);
    let one = [&b"PK\x03\x04"[..], &common, b"a", packed].concat();
    let mut zip = one.repeat(files);
    let at = u32::try_from(zip.len()).unwrap();
    let mut size = 0_u32;
    for number in 0..files {
        let from = u32::try_from(one.len() * number).unwrap().to_le_bytes();
        let entry = [&b"PK\x01\x02\x14\0"[..], &common, &[0; 10], &from, b"a"].concat();
        size += u32::try_from(entry.len()).unwrap();
        zip.extend(entry);
    }
    let count = u16::try_from(files).unwrap().to_le_bytes();
    zip.extend([&b"PK\x05\x06\0\0\0\0"[..], &count, &count].concat());
    zip.extend([size.to_le_bytes(), at.to_le_bytes()].concat());
    zip.extend([0, 0]);
    zip
}

/// How long the sidecar has had a core for, in all its threads: other work on the machine does not count.
fn on_core(world: &World) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", world.child.id())).unwrap();
    // Behind the name, which may hold anything: `utime` and `stime`, in hundredths of a second.
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_of_them_takes_more_than_a_plain_body() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let zeros = vec![0; 1 << 20];
    let packed = gzip(&zeros);
    let many = packed.repeat((1 << 20) / packed.len());
    let six = (0..6).fold(zeros.clone(), |inner, _| gzip(&inner));
    let stream = deflate(&vec![0; 40 << 20]);
    let encoded = |coding: &str| format!("Content-Encoding: {coding}\r\n");
    let cases: Vec<(&str, String, Vec<u8>)> = vec![
        ("zstd, 8 GiB", encoded("zstd"), zstd(17, 1 << 16)),
        ("zstd with a window of 2 GiB", encoded("zstd"), zstd(31, 4)),
        ("zstd with a window of 128 MiB", encoded("zstd"), zstd(27, 4)),
        ("zstd with a window of 3 TiB", encoded("zstd"), zstd(41, 4)),
        ("zstd, of many frames", encoded("zstd"), zstd(17, 8).repeat(4096)),
        ("gzip, of many members", encoded("gzip"), many.clone()),
        ("gzip in gzip", encoded("gzip, gzip"), gzip(&many)),
        ("deflate", encoded("deflate"), stream.clone()),
        ("zstd in gzip", encoded("zstd, gzip"), gzip(&zstd(17, 1 << 14))),
        ("ten codings", encoded(&["gzip"; 10].join(", ")), six.clone()),
        ("a thousand codings", encoded(&["gzip"; 1000].join(",")), six.clone()),
        ("brotli of garbage", encoded("br"), vec![0x5b; 1 << 20]),
        // Without a word of what they are: what is packed in them is not looked at beyond a bound.
        ("a gzip file", String::new(), many),
        ("gzip files in each other", String::new(), six),
        ("a zip file", String::new(), zip(&stream, 40 << 20, 1)),
        ("a zip file that lies", String::new(), zip(&stream, 5, 1)),
        ("a zip file of many", String::new(), zip(&deflate(&zeros), 1 << 20, 800)),
        ("a zip file that says 4 GiB", String::new(), zip(b"", u32::MAX, 1)),
    ];
    // As long as searching takes that is as large as what one unpacks to may be.
    let begun = on_core(&world);
    let plain = vec![0; 16 << 20];
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: {}\r\n\r\n",
        plain.len()
    );
    let mut client = world.inside("api.example.com:443").await;
    assert_eq!(client.ask([head.as_bytes(), &plain].concat()).await.status, 200);
    let most = 8 * (on_core(&world) - begun) + Duration::from_secs(2);
    world.upstream.forget();
    for (name, fields, body) in cases {
        let head = format!(
            "POST /echo HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let begun = on_core(&world);
        let mut client = world.inside("api.example.com:443").await;
        let answer = client.ask([head.as_bytes(), &body].concat()).await;
        let took = on_core(&world) - begun;
        if fields.is_empty() {
            // Either it is refused, or it passes with a word that not all of it was searched.
            assert!(matches!(answer.status, 200 | 413), "{name}: {}", answer.status);
            if answer.status == 200 {
                let allowed = world.log("allow");
                assert_eq!(allowed.last().unwrap()["unscanned"], true, "{name}");
            }
        } else {
            assert_eq!((answer.status, answer.code()), (413, "dlp_unscannable"), "{name}");
            assert!(world.upstream.arrived().is_empty(), "{name}");
        }
        assert!(took < most, "{name}: {took:?} of {most:?}");
        bounded(&world);
    }
    let answer = world
        .inside("api.example.com:443")
        .await
        .ask("GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        .await;
    assert_eq!(answer.status, 200);
}
