//! `bottle schema`: JSON Schema, for editors and for programs that read our documents.

use super::args::{SchemaArgs, SchemaOf};
use super::documents::ReportDocument;
use super::error::{CliError, Exit};
use super::ui::Ui;
use crate::manifest::schema;
use crate::plan::document::PlanDocument;

pub(super) fn run(ui: &Ui, args: &SchemaArgs) -> Result<Exit, CliError> {
    let schema = match args.of {
        SchemaOf::Bottle => schema::bottle(),
        SchemaOf::Agent => schema::agent(),
        SchemaOf::Tree => schema::settings(),
        SchemaOf::Plan => schemars::schema_for!(PlanDocument).to_value(),
        SchemaOf::Report => schemars::schema_for!(ReportDocument).to_value(),
    };
    ui.document(&schema)?;
    Ok(Exit::Done)
}
