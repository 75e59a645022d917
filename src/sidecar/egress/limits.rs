//! Every bound of the sidecar, in one place.
//!
//! A machine is not trusted, so whatever it can make the sidecar keep, wait for or compute is
//! bounded here. Together they keep the process below 64 MiB under attack.

use std::time::Duration;

/// Connections of the machine at once. The next one is answered 503 and closed.
pub const CONNECTIONS: usize = 320;

/// Requests of the machine at once, on all of its connections: HTTP/2 makes many of one. The next one
/// is answered 503.
pub const REQUESTS: usize = 512;

/// Of the connections, how many may be without a complete request or handshake; the oldest makes room for a
/// new one, so that a machine that opens many and says nothing only keeps itself waiting.
pub const SILENT_CONNECTIONS: usize = 256;

/// For a head to arrive, from its first byte, and for a TLS handshake.
pub const HEAD: Duration = Duration::from_secs(10);

/// For the first message of a TLS handshake, from the CONNECT on.
pub const CLIENT_HELLO: Duration = Duration::from_secs(5);

/// For the next request of a connection to begin.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How much of a head HTTP/2 decodes.
pub const HEADER_LIST: u32 = 64 * 1024;

/// The same of an upstream's answer: more than is passed on, so that an answer over [`RESPONSE_HEAD_SIZE`]
/// is told from one that is broken.
pub const UPSTREAM_HEADER_LIST: u32 = 256 * 1024;

/// Bytes of an answer's head that are passed on, each field with its separators.
pub const RESPONSE_HEAD_SIZE: usize = 64 * 1024;

/// Fields of an answer's head that are passed on.
pub const RESPONSE_FIELDS: usize = 100;

/// Fields of a head.
pub const FIELDS: usize = 128;

/// What the kernel keeps of what a machine does not read; by itself it would take megabytes. The way to a
/// machine is short, so more would make nothing faster.
pub const SEND_QUEUE: usize = 208 * 1024;

/// What is read at once of what should be a TLS handshake.
pub const HELLO: usize = 4 * 1024;

/// What is read at once of a machine's connection that sends a lot: one TLS record, and a little.
pub const READ_AHEAD: usize = 17 * 1024;

/// So many reads of TLS's own size make a connection one that sends a lot.
pub const STREAK: usize = 8;

/// What is read at once of an upstream's connection that sends a lot.
pub const UPSTREAM_READ_AHEAD: usize = 64 * 1024;

/// Responses at once that have large buffers; with more, each passes on one piece at a time.
pub const WIDE_RESPONSES: usize = 12;

/// What is read at once of an upstream in a crowd of responses.
pub const CROWDED_READ: usize = 4 * 1024;

/// What TLS keeps for a machine that does not read.
pub const WRITE: usize = 64 * 1024;
/// The same, in a crowd of responses.
pub const CROWDED_WRITE: usize = 4 * 1024;

/// hyper's buffer of a connection: a head of the largest size that framing lets through, and room
/// for a chunk of body.
pub const READ_BUFFER: usize = 80 * 1024;

/// Streams of one HTTP/2 connection at once.
pub const STREAMS: u32 = 100;

/// Streams that were reset before they were looked at; more close the connection.
pub const PENDING_RESETS: usize = 20;

/// Streams that the sidecar has reset because of their mistakes; more close the connection.
pub const ERROR_RESETS: usize = 128;

/// HTTP/2 connections at once that may send far ahead, each [`WIDE_WINDOW`], in frames of [`WIDE_FRAME`]:
/// an upload waits for the other side once for each window, and some clients copy all that is left
/// once for each frame.
pub const WIDE_CONNECTIONS: usize = 8;
/// See [`WIDE_CONNECTIONS`].
pub const WIDE_WINDOW: u32 = 1024 * 1024;
/// See [`WIDE_CONNECTIONS`].
pub const WIDE_FRAME: u32 = 256 * 1024;

/// What one HTTP/2 stream may send ahead on any other connection.
pub const STREAM_WINDOW: u32 = 64 * 1024;

/// What any other HTTP/2 connection may send ahead.
pub const CONNECTION_WINDOW: u32 = 128 * 1024;

/// What waits to be written to one HTTP/2 stream.
pub const SEND_BUFFER: usize = 128 * 1024;

/// What an upstream's HTTP/2 stream, and its connection, may send ahead. Streams that nobody reads
/// hold their windows, so the connection's is that of several.
pub const UPSTREAM_STREAM_WINDOW: u32 = 512 * 1024;
/// See [`UPSTREAM_STREAM_WINDOW`].
pub const UPSTREAM_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// How much of a request's body is looked at before its upstream is dialled.
pub const HELD_BODY: usize = 1024 * 1024;

/// The same of a text out of which secrets are taken: that is done to one that is there as a whole, and
/// a long conversation is one.
pub const REDACTED_BODY: usize = 4 * 1024 * 1024;

/// How often what was found is taken out of one body: what is left may be a secret of another rule.
pub const REDACTIONS: usize = 8;

/// How long a body of a known length may take to arrive or to fill that, and between two pieces of it; what
/// has come by then goes on behind the scanner.
pub const HELD_BODY_TIME: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(1)];

/// The same of a body that does not say how long it is: perhaps its sender waits for an answer to what it
/// has sent so far.
pub const OPEN_BODY_TIME: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(100)];

/// The same of a body that is an archive: it can be looked into only as a whole, and nobody waits for an
/// answer to a part of it.
pub const WHOLE_BODY_TIME: [Duration; 2] = [Duration::from_secs(120), Duration::from_secs(30)];

/// How long the last bytes of a body that streams are held back, because a secret may have begun in them,
/// when nothing follows. Then they are searched by themselves, and go on.
pub const FLUSH: Duration = Duration::from_millis(100);

/// The same of a response, whose last bytes may begin a credential.
pub const RELEASE: Duration = Duration::from_millis(50);

/// What all bodies that are held take together.
pub const HELD_BODIES: usize = 16 * 1024 * 1024;

/// The share of that which a body has that is too long to be held: what is searched together, what
/// waits to be sent, and what is read meanwhile.
pub const STREAMED_BODY: usize = 224 * 1024;

/// For so long a body waits for its share of that, or for its decoders, while nobody else gets one.
pub const HELD_BODIES_WAIT: Duration = Duration::from_secs(30);

/// A body up to this size is searched where its request is worked on; a larger one beside it.
pub const SEARCHED_AT_ONCE: usize = 16 * 1024;

/// So much of a body that passes is searched together.
pub const SEARCHED_IN_TURN: usize = 64 * 1024;

/// A body that is too long to be held stops for a moment, [`PACE`], after each so much, while anything but such
/// bodies moves. It has some 70 MB/s then, and leaves the processors to that.
pub const PACED_PIECE: usize = 128 * 1024;

/// For how long.
pub const PACE: Duration = Duration::from_millis(1);

/// For so long after a request, or a piece of an answer, there may be a next one that waits for a processor.
pub const ACTIVE: Duration = Duration::from_millis(20);

/// The largest body that is scanned; of one that is compressed, with and without that.
pub const SCANNED_BODY: u64 = 64 * 1024 * 1024;

/// What is unpacked of any body, however small it is.
pub const UNPACKED_ANY: u64 = 1024 * 1024;

/// What is unpacked of a body that is not that small; of more, so many bytes for each that came. Large texts seldom
/// shrink to less than a sixteenth, and what does is as long to search as what does not.
pub const UNPACKED_SMALL: u64 = 16 * 1024 * 1024;
/// See [`UNPACKED_SMALL`].
pub const UNPACKED_RATIO: u64 = 16;

/// What is unpacked of a body that is an archive, and streams.
pub const ARCHIVE: u64 = 512 * 1024 * 1024;
/// The same, for each byte that came.
pub const ARCHIVE_RATIO: u64 = 64;

/// What the decoders of all bodies take that are compressed and stream: what is unpacked is not kept, but
/// each format may refer to so much of it, 16 MiB in the worst case.
pub const DECODERS: usize = 17 * 1024 * 1024;

/// What the search of a packed body as it stands takes.
pub const SEARCHED_BESIDE: usize = 128 * 1024;

/// How much of a compressed body waits, beyond what its decoders have not given yet.
pub const HELD_PACKED: usize = 256 * 1024;

/// So much of a compressed body is unpacked together, at least: in steps as small as this it goes on.
pub const UNPACKED_IN_TURN: usize = 4 * 1024;

/// Between two pieces of a request's body.
pub const REQUEST_IDLE: Duration = Duration::from_secs(120);

/// One DNS query; it is asked [`DNS_ATTEMPTS`] times.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(2);
/// See [`DNS_TIMEOUT`].
pub const DNS_ATTEMPTS: usize = 2;
/// All queries for one name.
pub const DNS_DEADLINE: Duration = Duration::from_secs(6);
/// Answers that are kept, as long as they say, at most [`DNS_TTL`].
pub const DNS_CACHE: u64 = 256;
/// See [`DNS_CACHE`].
pub const DNS_TTL: Duration = Duration::from_secs(300);

/// How long one address has before the next one is tried beside it.
pub const DIAL_STAGGER: Duration = Duration::from_millis(300);
/// Addresses of one name that are tried.
pub const DIAL_ADDRESSES: usize = 8;
/// Until some address answers.
pub const DIAL: Duration = Duration::from_secs(10);
/// For the upstream's TLS handshake.
pub const UPSTREAM_HANDSHAKE: Duration = Duration::from_secs(10);

/// For a proxy to answer a CONNECT: it resolves and dials meanwhile.
pub const PROXY_ANSWER: Duration = Duration::from_secs(30);
/// The head of that answer.
pub const PROXY_HEAD: usize = 16 * 1024;
/// Addresses of one name for which a proxy is asked.
pub const PROXY_ADDRESSES: usize = 3;

/// Until an upstream begins to answer, from when the request's body moved last. Answers of language models that are not streamed take
/// minutes.
pub const RESPONSE_HEAD: Duration = Duration::from_secs(600);

/// A response of this size, by what it says, is passed on as a whole while credentials are loaded, so that
/// it keeps a length; if it takes no longer than [`GATHER`] to come.
pub const GATHERED_RESPONSE: u64 = 64 * 1024;
/// See [`GATHERED_RESPONSE`].
pub const GATHER: Duration = Duration::from_millis(100);

/// Between two pieces of a response.
pub const RESPONSE_IDLE: Duration = Duration::from_secs(600);

/// A message of a WebSocket that is searched, and so held, as a whole.
pub const WEBSOCKET_MESSAGE: usize = 4 * 1024 * 1024;

/// How long such a message may take to come as a whole.
pub const WEBSOCKET_MESSAGE_TIME: Duration = Duration::from_secs(120);

/// A WebSocket over which nothing has come for so long, or for up to twice that, is closed.
pub const WEBSOCKET_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// Connections to one upstream that are kept for the next request.
pub const IDLE_UPSTREAMS: usize = 8;
/// Connections to all upstreams that are kept for the next request.
pub const ALL_IDLE_UPSTREAMS: usize = 64;
/// How long they are kept.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(60);

/// Calls of an agent that wait for the operator at once; the next one is told at once that it is pending.
pub const WAITING_CALLS: usize = 8;

/// How long such a call waits: less than any client that was measured.
pub const WAIT: Duration = Duration::from_secs(240);

/// The same where nothing can be said meanwhile.
pub const WAIT_HELD: Duration = Duration::from_secs(45);

/// How often something is said meanwhile.
pub const BEAT: Duration = Duration::from_secs(20);

/// How often the clock is asked whether something has ended.
pub const CLOCK: Duration = Duration::from_secs(30);

/// For a message of an agent's to arrive.
pub const MESSAGE: Duration = Duration::from_secs(10);

/// Requests that a list of them has.
pub const LISTED: usize = 20;

/// Leaf certificates that are kept.
pub const LEAVES: usize = 128;

/// After the last byte of a refusal: how long, and how much, is still read of a request that was
/// refused, so that its sender gets to read why.
pub const LINGER: Duration = Duration::from_secs(120);
/// See [`LINGER`].
pub const LINGER_BYTES: usize = 256 * 1024 * 1024;
/// How long one that sends nothing is waited for.
pub const LINGER_IDLE: Duration = Duration::from_secs(3);

/// A piece of memory of this size goes back to the system when it is free. What moves in a stream is
/// smaller, and need not be asked for again and again.
pub const LARGE_PIECE: i32 = 192 * 1024;

/// Threads that move bytes.
pub const THREADS: usize = 2;
/// Threads that search what takes long.
pub const BLOCKING_THREADS: usize = 2;

/// A document, as it is loaded.
pub const DOCUMENT: u64 = 4 * 1024 * 1024;

/// The log file; the one before it is kept beside it.
pub const LOG: u64 = 16 * 1024 * 1024;
