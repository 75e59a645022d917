//! Leak detection.

mod decode;
mod engine;
mod entropy;
mod known;
mod matcher;
mod pack;
mod rules;
mod scanner;
mod stream;
mod suppress;

pub use known::{Finder, Known, TooShort};
pub use rules::{Rules, RulesError};
pub use scanner::{Finding, Layer, Scanner};
pub use stream::BodyScanner;
pub use suppress::Suppression;
