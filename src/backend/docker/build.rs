//! An image that the engine builds of a folder, by the builder that every engine has.
//!
//! The engine's other builder, BuildKit, talks to its client while it builds, by a protocol of its own; see
//! `docs/decisions/0030-the-builder.md`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use bollard::body_try_stream;
use bollard::models::BuildInfo;
use bollard::query_parameters::BuildImageOptionsBuilder;

use super::engine::Engine;
use super::{Docker, auth, context, feed, image, labels};
use crate::backend::{BackendError, Progress, Scope};
use crate::model::text::harmless_line;
use crate::model::{ImageRef, SpecHash};

/// So many lines of a build that failed are shown, of so many characters each.
const LINES: usize = 12;
const WIDTH: usize = 200;

/// What a folder is built as.
pub(super) struct Build<'a> {
    pub(super) path: &'a Path,
    pub(super) args: &'a BTreeMap<String, String>,
    pub(super) content: SpecHash,
    /// The name that the image gets.
    pub(super) name: &'a str,
}

/// Builds it. What fails is told with the last lines of its output.
pub(super) async fn build(
    docker: &Docker,
    engine: &Engine,
    build: &Build<'_>,
    progress: &Progress,
) -> Result<(), BackendError> {
    let shown = build.path.display().to_string();
    progress.say(&format!("building {shown}"));
    let options = BuildImageOptionsBuilder::new()
        .t(build.name)
        .rm(true)
        .forcerm(true)
        .buildargs(&build.args.clone().into_iter().collect::<HashMap<String, String>>())
        .build();
    let mut logins = HashMap::new();
    for base in context::bases(build.path) {
        if let Some(login) = auth::credentials(docker.settings.config_dir.as_deref(), &base).await {
            logins.insert(auth::registry(&base).to_owned(), login);
        }
    }
    let (path, content) = (build.path.to_owned(), build.content);
    let (body, writer) = feed::channel(move |out| context::write(&path, content, out));
    let logins = (!logins.is_empty()).then_some(logins);
    let client = engine.patient();
    let stream = client.build_image(options, logins, Some(body_try_stream(body)));
    let mut output = Output::default();
    let each = |info: BuildInfo| {
        for line in output.push(info.stream.as_deref().or(info.status.as_deref()).unwrap_or("")) {
            progress.say(&format!("building {shown}: {line}"));
        }
    };
    let built = feed::finish(writer, image::follow(engine, &shown, stream, each)).await;
    built.map_err(|error| match error {
        BackendError::Image { image, reason } => {
            BackendError::Image { image, reason: output.explain(&reason) }
        }
        BackendError::Failed { source, .. } => {
            BackendError::Image { image: shown, reason: format!("{source:#}") }
        }
        other => other,
    })
}

/// What a build says, a bounded part of it.
#[derive(Default)]
struct Output {
    open: String,
    last: VecDeque<String>,
}

impl Output {
    /// The lines that are whole by now.
    fn push(&mut self, text: &str) -> Vec<String> {
        let mut whole = Vec::new();
        for c in text.chars() {
            match c {
                '\n' | '\r' => whole.extend(self.end()),
                c if self.open.len() < 4 * WIDTH => self.open.push(c),
                _ => {}
            }
        }
        whole
    }

    fn end(&mut self) -> Option<String> {
        let line = plain(&std::mem::take(&mut self.open));
        if line.is_empty() {
            return None;
        }
        if self.last.len() == LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.clone());
        Some(line)
    }

    fn explain(&mut self, reason: &str) -> String {
        self.end();
        let mut text = format!("the build failed: {}", plain(reason));
        if !self.last.is_empty() {
            let lines: Vec<&str> = self.last.iter().map(String::as_str).collect();
            text.push_str(&format!("; its last lines: {}", lines.join(" | ")));
        }
        if reason.to_lowercase().contains("buildkit") || reason.contains("dockerfile parse error") {
            text.push_str(
                "; what only BuildKit can do has to be built beforehand (`docker build -t NAME .`) and named \
                 as `image: docker:NAME`",
            );
        }
        text
    }
}

/// One line, without colours, of bounded length.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.trim();
    while let Some(at) = rest.find("\x1b[") {
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let end = after.find(|c: char| c.is_ascii_alphabetic()).map_or(after.len(), |end| end + 1);
        rest = &after[end..];
    }
    out.push_str(rest);
    let line = harmless_line(out.trim());
    match line.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

impl Docker {
    /// Sees to it that the engine has the image that is built of a folder, and says what it is called there.
    ///
    /// # Errors
    /// When there is no engine, or the image cannot be built.
    pub async fn build_image(
        &self,
        scope: &Scope,
        image: &ImageRef,
        progress: &Progress,
    ) -> Result<String, BackendError> {
        let Some(digest) = image.digest() else {
            return Err(BackendError::Unsupported(format!("`{image}` is not built")));
        };
        let engine = self.engine().await?;
        let name = labels::imported(scope, digest);
        let lock = self.image_lock(&name);
        let _one = lock.lock().await;
        image::fetch(self, &engine, scope, image, &name, progress).await?;
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_bounded_and_harmless() {
        let mut output = Output::default();
        assert_eq!(output.push("Step 1/2 : FR"), Vec::<String>::new());
        assert_eq!(
            output.push("OM x\n\n\x1b[31mred\x1b[0m\x07\n"),
            ["Step 1/2 : FROM x", "red\u{fffd}"]
        );
        for number in 0..100 {
            output.push(&format!("{number}{}\n", "x".repeat(5000)));
        }
        output.push("the end");
        let text = output.explain("returned a non-zero code: 1\x1b]0;title\x07");
        assert!(
            text.starts_with("the build failed: returned a non-zero code: 1\u{fffd}"),
            "{text}"
        );
        assert!(
            text.ends_with("… | the end") && !text.contains("Step") && text.len() < 4000,
            "{text}"
        );
        let text = output.explain("the --mount option requires BuildKit");
        assert!(text.contains("image: docker:NAME"), "{text}");
    }
}
