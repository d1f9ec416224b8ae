//! Asks the program itself whether it would accept the new files.
//!
//! Two ways. With a *shadow*, the main configuration is copied with the paths of the files replaced by those of the
//! candidates, and the check is shown the copy: the real files are untouched until they are known to be good. Without
//! one, the new files are put in place first and taken back when the check refuses them, which leaves a short moment
//! in which another start of the program would see them.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::World;
use crate::private;

/// The word of a command that the path of the shadow replaces.
const PLACE: &str = "{config}";

/// A check of the new files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validate {
    /// Program and arguments; `{config}` in an argument stands for the configuration to check.
    pub command: Vec<String>,
    /// The main configuration of which a shadow is made.
    pub shadow: Option<PathBuf>,
    /// How long the check may take.
    pub timeout: Duration,
}

/// Runs the check. `candidates` are pairs of a file and what stands for it; none when the files are in place.
pub(super) async fn run(
    validate: &Validate,
    candidates: &[(PathBuf, PathBuf)],
    environment: &[(String, String)],
    world: &dyn World,
) -> Result<(), String> {
    let Some(main) = &validate.shadow else {
        return world.run(&validate.command, environment, validate.timeout).await;
    };
    if candidates.is_empty() {
        return world
            .run(&with_config(&validate.command, main), environment, validate.timeout)
            .await;
    }
    let text =
        fs::read_to_string(main).map_err(|error| format!("`{}`: {error}", main.display()))?;
    let text = shadow(&text, candidates).map_err(|file| {
        format!(
            "`{}` does not include `{}` by its full path, so no shadow of it can be made",
            main.display(),
            file.display()
        )
    })?;
    let path = shadow_path(main);
    let written = write_like(main, &path, text.as_bytes());
    let result = if let Err(error) = written {
        Err(format!("`{}`: {error}", path.display()))
    } else {
        let command = with_config(&validate.command, &path);
        world.run(&command, environment, validate.timeout).await
    };
    if let Err(error) = fs::remove_file(&path) {
        tracing::debug!(file = %path.display(), %error, "the shadow stays behind");
    }
    result
}

/// Writes the shadow, as protected as the main configuration: that may hold secrets.
fn write_like(main: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = private::create(path)?;
    file.write_all(text)?;
    file.set_permissions(fs::metadata(main)?.permissions())
}

/// Beside the main configuration, for paths in it may be relative to its folder.
fn shadow_path(main: &Path) -> PathBuf {
    let name = main.file_name().unwrap_or_default().to_string_lossy();
    main.with_file_name(format!(".{name}.muster-check"))
}

/// The text with each file replaced by its candidate; the error is a file that does not occur.
fn shadow<'a>(text: &str, candidates: &'a [(PathBuf, PathBuf)]) -> Result<String, &'a Path> {
    let mut shadow = text.to_owned();
    for (file, candidate) in candidates {
        let replaced = shadow.replace(&*file.to_string_lossy(), &candidate.to_string_lossy());
        if replaced == shadow {
            return Err(file);
        }
        shadow = replaced;
    }
    Ok(shadow)
}

fn with_config(command: &[String], config: &Path) -> Vec<String> {
    command.iter().map(|word| word.replace(PLACE, &config.to_string_lossy())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shadow_includes_the_candidates() {
        let pair = |file: &str, candidate: &str| (PathBuf::from(file), PathBuf::from(candidate));
        let pairs = [pair("/e/a.conf", "/e/.a.new"), pair("/e/b.conf", "/e/.b.new")];
        let text = "include /e/a.conf;\ninclude /e/b.conf; # not /e/a.conf\n";
        assert_eq!(
            shadow(text, &pairs).unwrap(),
            "include /e/.a.new;\ninclude /e/.b.new; # not /e/.a.new\n"
        );
        assert_eq!(shadow("include /e/*.conf;", &pairs), Err(Path::new("/e/a.conf")));
    }
}
