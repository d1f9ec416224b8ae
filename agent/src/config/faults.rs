//! Faults in the keys of one source, told in one message.

use super::places::Places;
use super::{keys, list_errors};

/// All mistakes in the keys of one file, or of the command line.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Paths of unknown keys, with the known key that was probably meant.
    pub(super) unknown: Vec<(String, Option<String>)>,
    /// Values of the wrong type, in full sentences.
    pub(super) misfits: Vec<String>,
    /// Keys that ask for what does not exist, and why that is not passed over.
    pub(super) refused: Vec<(&'static str, &'static str)>,
    /// Values that cannot be read, in full sentences.
    pub(super) invalid: Vec<String>,
}

impl Faults {
    /// One text that names all of them, and what to do; `None` if there are none. `source` is the text in which they
    /// stand, if there is one.
    pub(super) fn message(mut self, source: Option<&str>) -> Option<String> {
        let mut parts = Vec::new();
        if !self.misfits.is_empty() {
            self.misfits.sort();
            let lines: Vec<String> = self.misfits.iter().map(|m| format!("* {m}")).collect();
            parts.push(format!("{} error(s) decoding:\n\n{}", lines.len(), lines.join("\n")));
        }
        // Deeper blocks first, as the reference lists them.
        self.unknown.sort_by_key(|(path, _)| (!path.contains('.'), path.clone()));
        let mut lines: Vec<String> =
            self.unknown.iter().map(|(path, _)| format!("invalid config key {path}")).collect();
        lines.extend(
            self.refused.iter().map(|(path, why)| format!("`{path}` is not supported yet: {why}")),
        );
        lines.append(&mut self.invalid);
        if !lines.is_empty() {
            parts.push(list_errors(&lines));
        }
        if parts.is_empty() {
            return None;
        }
        Some(parts.join("\n\n") + &self.hints(source))
    }

    /// A line for each key: where it stands, and what to do about it.
    fn hints(&self, source: Option<&str>) -> String {
        let places = source.map(Places::of);
        let at = |path: &str| {
            let line = places.as_ref().and_then(|places| places.line(path));
            line.map(|line| format!("line {line}: ")).unwrap_or_default()
        };
        let mut hints = String::new();
        for (path, near) in &self.unknown {
            let near = near.as_deref().or_else(|| keys::nearest(path));
            let what = match near {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("remove `{path}`: there is no such key"),
            };
            hints.extend(["\nhint: ", &at(path), &what]);
        }
        for (path, _) in &self.refused {
            hints.extend(["\nhint: ", &at(path), "remove `", path, "`, or give it no value"]);
        }
        hints
    }
}
