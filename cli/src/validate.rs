//! `evoke validate`: every error of every file, in one go.

use std::io::{self, Write};

use evoke_api::manifest::{Diagnostic, Schemas};

use crate::args::{Output, ValidateArgs};
use crate::local::plan::{Purpose, plan};
use crate::local::{read, shared_port};

/// Checks the manifests and prints what was found on standard output. True when there are no errors.
///
/// # Errors
/// When standard output cannot be written.
pub fn validate(args: &ValidateArgs) -> io::Result<bool> {
    let mut loaded = read(&Schemas::new(), &args.manifests);
    let purpose = Purpose::Validate { partial: args.partial };
    plan(&mut loaded, args.manifests.bus, purpose, shared_port(args.listen));
    let errors = loaded.diagnostics.iter().filter(|d| d.is_error()).count();
    let warnings = loaded.diagnostics.len() - errors;
    let mut out = io::stdout().lock();
    match args.output {
        Output::Json => {
            let report = Report { objects: loaded.objects.len(), errors, warnings, diagnostics: &loaded.diagnostics };
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        }
        Output::Text => {
            for diagnostic in &loaded.diagnostics {
                writeln!(out, "{diagnostic}")?;
            }
            let (objects, error, warning) =
                (count(loaded.objects.len(), "object"), count(errors, "error"), count(warnings, "warning"));
            writeln!(out, "{objects}, {error}, {warning}")?;
        }
    }
    Ok(errors == 0)
}

#[derive(serde::Serialize)]
struct Report<'a> {
    /// How many objects are free of errors of their own.
    objects: usize,
    errors: usize,
    warnings: usize,
    diagnostics: &'a [Diagnostic],
}

/// A number with its noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
