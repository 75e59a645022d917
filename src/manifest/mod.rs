//! manifest (being built on a branch)
#![allow(missing_docs)]
use crate::model::*;
use std::path::PathBuf;
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    pub tree: PathBuf,
    pub overlay: Option<PathBuf>,
    pub default_backend: Option<BackendKind>,
    pub home: Option<PathBuf>,
    pub state_dir: PathBuf,
    pub skills_dir_override: Option<String>,
}
#[derive(Debug, thiserror::Error)]
#[error("load")]
pub struct LoadError;
pub fn load(_: &LoadOptions) -> Result<Desired, LoadError> {
    Err(LoadError)
}
