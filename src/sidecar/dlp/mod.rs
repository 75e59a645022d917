//! Leak detection: what must not leave a sandbox, found in the text that leaves it.
//!
//! ```text
//! body ─ coding (gzip, deflate, br, zstd; bounded) ─┐
//!        archive (zip, tar.gz; bounded) ────────────┤
//! URL, headers ─────────────────────────────────────┴─ scanner: windows of fixed size
//!
//! scanner: text ─ matcher (one automaton: keywords, encoded keywords, known values)
//!               ├ engine  (pattern, secret, entropy, allowlists: around the keywords only)
//!               └ decode  (percent, escapes, hex, base64, UTF-16: one layer) ─ text again, 6 deep
//! ```
//!
//! Pure: no I/O and no clock. A [`Finding`] names a rule and never carries what was found.
//!
//! - [`Rules`] are in gitleaks' format. [`Rules::builtin`] are ours: `pack.toml`.
//! - [`Known`] values are the credentials themselves; they are looked for exactly, in every usual
//!   encoding, and [`Suppression`]s do not hold for them.
//! - [`Scanner::scan`] takes a text as a whole, [`Scanner::stream`] one that comes in pieces; both
//!   find the same. [`Scanner::scan_body`] takes codings off and opens archives.
//! - [`Scanner::take_out`] puts a marker in the place of what was found, as far as that stands in a text;
//!   what comes of it is searched again.

mod accident;
mod archive;
pub mod coding;
mod decode;
mod engine;
mod entropy;
mod known;
mod marker;
mod marks;
mod matcher;
mod named;
mod pack;
mod redact;
mod rules;
mod scanner;
mod stream;
mod suppress;
mod within;

pub(in crate::sidecar) use archive::Bounds;
pub(in crate::sidecar) use archive::find::begins_packed;
pub(in crate::sidecar) use archive::{Kind, Layers, packing};
pub use archive::{Report, Unscanned, is_packed};
pub use known::{Finder, Known, SHORTEST, TooShort};
pub use marks::{Mark, Marks};
pub(in crate::sidecar) use named::Named;
pub use redact::{Taken, Written};
pub use rules::{Rules, RulesError};
pub use scanner::{DEPTH, Finding, Scanner};
pub use stream::BodyScanner;
pub(in crate::sidecar) use stream::{Opener, Room};
pub use suppress::Suppression;
pub(in crate::sidecar) use within::any_within;
