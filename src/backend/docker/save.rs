//! An image of the engine as a file: how another backend gets one that exists only here.

use std::path::Path;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::{Docker, error};
use crate::backend::BackendError;

impl Docker {
    /// The engine's id of a local image; `None`: there is none of that name.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn image_id(&self, name: &str) -> Result<Option<String>, BackendError> {
        let engine = self.engine().await?;
        match engine.client.inspect_image(name).await {
            Ok(image) => Ok(image.id),
            Err(e) if error::is_status(&e, 404) => Ok(None),
            Err(e) => Err(engine.failed(format!("inspecting image {name}"), e)),
        }
    }

    /// Writes a local image to a new file, as `docker save` does.
    ///
    /// # Errors
    /// When the engine does not deliver it, or the file cannot be written.
    pub async fn save_image(&self, name: &str, to: &Path) -> Result<(), BackendError> {
        let engine = self.engine().await?;
        let what = || format!("exporting image {name}");
        let writing = |e: std::io::Error| BackendError::failed(what(), e);
        let mut file = tokio::fs::File::create_new(to).await.map_err(writing)?;
        let client = engine.patient();
        let mut chunks = client.export_image(name);
        while let Some(chunk) = chunks.next().await {
            let chunk: Bytes = chunk.map_err(|e| engine.failed(what(), e))?;
            file.write_all(&chunk).await.map_err(writing)?;
        }
        file.flush().await.map_err(writing)
    }
}
