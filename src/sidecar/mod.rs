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
//! What decides is pure and is what `bottle policy check` asks as well.

pub mod address;
pub mod allowlist;
pub mod authority;
pub mod ca;
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
pub mod part;
pub mod path;
pub mod policy;
pub mod record;
#[cfg(target_os = "linux")]
pub mod start;

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
