//! The sidecar: the only way out of a sandbox.
//!
//! One rule holds everywhere in here: **any value that a decision read is the value that is used.**
//! Bytes from a guest are parsed once, by one strict parser, into a type whose constructor is
//! private; what is decided, dialled, forwarded and logged is that value, and the bytes are never
//! read again by another parser. Two parsers that disagree about a numeric host, a user info, a
//! fragment or a second `Content-Length` are how proxies are bypassed.
//!
//! What happens to a request, in order:
//!
//! 1. `framing` refuses every head and body that two HTTP parsers could read differently.
//! 2. `authority` makes a canonical host and port of what the request names.
//! 3. `path` makes a canonical path; what would need normalising is refused.
//! 4. `policy` decides: the `allowlist`, then the credential routes. A denial ends here, with a
//!    [`Code`], before any name is resolved.
//! 5. Secrets in the URL, the headers and the body are looked for; a leak ends here.
//! 6. The name is resolved, and every address passes [`CheckedAddr`]; only that is dialled.
//! 7. The upstream's certificate is verified, a route's credential is injected, and the request
//!    is forwarded.
//! 8. On the way back known secrets are redacted.
//!
//! At one path of its own, `/.bottle/mcp`, an agent asks its operator for a change: [`supervise`]. It only ever asks.
//!
//! What decides is pure and is what `bottle policy check` asks as well.
//!
//! # The process
//!
//! One process serves one machine. A backend starts it, and whoever holds the policy and the
//! credentials loads them into it afterwards; until then nothing passes.
//!
//! ```text
//! bottle sidecar serve --control WHERE [--listen WHERE]… [--git WHERE] [--log FILE] [--confine]
//! bottle sidecar load  --control PATH < document.json     prints the state, or exits 1 and says why
//! bottle sidecar state --control PATH                     prints the state
//! bottle sidecar stop  --control PATH
//! bottle sidecar gate  --control PATH                     is one connection to the git gate
//! ```
//!
//! - `WHERE` is `unix:/PATH`, `fd:N` for a listening socket that is inherited, or `IP:PORT` (not for
//!   `--control`). A unix socket that an ended process left behind is replaced; a new one is its own
//!   user's alone.
//! - Both front doors are on every listener: `CONNECT` and absolute forms are the proxy, a path is the
//!   door of the credential routes, under one of the document's `names`.
//! - `--git WHERE` is where the machine's git finds its gate, where that is no process of this machine: what
//!   connects there waits until a command takes it (`relay`, `taking`), and nothing of it is read here.
//! - `--log FILE` is appended to, for its owner alone to read, and set aside as `FILE.1` at
//!   [`egress::limits::LOG`]; without it lines go to stdout, which a container's engine keeps.
//! - It is not dumpable and leaves no core, wherever it runs; nor does `load`, while it has the document.
//! - `--confine` is for a process on a host: no new privileges, no descriptor but those
//!   above, no file beyond the log's folder (where the kernel has Landlock), and no system call by
//!   which it could start a program or change what it is. The system's name servers and hosts are
//!   read before; where they change, the document's `resolver` and `hosts` say what is true now.
//! - More listening sockets, such as one made inside a machine's network namespace, are handed in
//!   over the control socket: [`control`] has its messages. It obeys its own user and root.
//! - It ends when it is told to, or by SIGTERM or SIGINT, with exit code 0.
//! - A panic ends the request that it happened in: the machine gets a page, the log the place, and
//!   neither gets the panic's message. So a release is built to unwind.

pub mod address;
pub mod allowlist;
pub mod authority;
#[cfg(test)]
mod breaking;
pub mod ca;
pub mod clock;
pub mod code;
#[cfg(target_os = "linux")]
pub mod confine;
pub mod control;
pub mod credential;
pub mod dlp;
pub mod document;
pub mod egress;
mod encodings;
pub mod framing;
pub mod git;
#[cfg(test)]
mod packing;
#[cfg(target_os = "linux")]
mod pages;
pub mod part;
pub mod path;
pub mod policy;
mod random;
pub mod record;
mod relay;
#[cfg(target_os = "linux")]
pub mod start;
pub mod supervise;
#[cfg(target_os = "linux")]
pub mod taking;
mod unpack;

pub use address::{CheckedAddr, Cidr};
pub use allowlist::{Allowlist, Grant};
pub use authority::{Authority, Host};
pub use code::Code;
pub use framing::Framing;
pub use part::PolicyPart;
pub use path::{CanonicalPath, PathPattern};
pub use policy::{
    Allowed, Policy, Route, RouteRequest, Transport, decide, decide_connect, decide_path_door,
};
use random::{holds_data, not_words};
