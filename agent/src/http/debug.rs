//! `/debug/pprof/`: there with `enable_debug`, as the reference's. Profiles of a run-time that this program does not have
//! are refused, and the tool that takes one from outside is named: whatever samples stacks inside a process that is
//! linked statically can stop it for good.

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::error::Error;
use super::paths::redirect;
use super::reply::Reply;
use crate::secrets::HIDDEN;

/// All of it lies below.
pub(super) const ROOT: &str = "/debug/pprof/";

/// Profiles of the reference's run-time.
const PROFILES: [&str; 8] =
    ["allocs", "block", "goroutine", "heap", "mutex", "profile", "threadcreate", "trace"];

/// The answer for a path; `None` where it is not below [`ROOT`].
pub(super) fn answer(method: &Method, path: &str, is_on: bool) -> Option<Reply> {
    const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");
    if path == ROOT.trim_end_matches('/') {
        return Some(redirect(method, ROOT, ""));
    }
    let name = path.strip_prefix(ROOT)?;
    if !is_on {
        // Without `enable_debug` a token would have to allow it.
        return Some(Error::Disabled("ACL support disabled").into());
    }
    let reply = match name {
        "" => Reply::text(StatusCode::OK, index()),
        "cmdline" => Reply::text(StatusCode::OK, without_secrets(std::env::args()).join("\0")),
        "symbol" => Reply::text(StatusCode::OK, "num_symbols: 0\n"),
        name if PROFILES.contains(&name) => {
            let process = std::process::id();
            Reply::text(
                StatusCode::NOT_IMPLEMENTED,
                format!(
                    "there is no `{name}` of this program\n\
                     hint: `perf record -g -p {process}` profiles it; /v1/agent/metrics has its figures\n"
                ),
            )
        }
        _ => Reply::text(StatusCode::NOT_FOUND, "Unknown profile\n"),
    };
    Some(reply.with(NO_SNIFF, HeaderValue::from_static("nosniff")))
}

fn index() -> String {
    let mut text =
        format!("{ROOT}\n\ncmdline: how this process was started\nsymbol: no symbols\n\n");
    text += "of other run-times, refused here: ";
    text += &PROFILES.join(" ");
    text + "\n"
}

/// A command line may hold the key of the gossip pool.
fn without_secrets(args: impl Iterator<Item = String>) -> Vec<String> {
    let (mut shown, mut hides) = (Vec::new(), false);
    for arg in args {
        let flag = arg.trim_start_matches('-');
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        let is_flag = flag.len() < arg.len();
        let secret = is_flag && ["encrypt", "hcl"].contains(&name);
        shown.push(match (hides, secret, value) {
            (true, ..) => HIDDEN.to_owned(),
            (_, true, "") | (_, false, _) => arg.clone(),
            (_, true, _) => format!("-{name}={HIDDEN}"),
        });
        hides = !hides && secret && value.is_empty();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_on_the_command_line_stay_hidden() {
        let args = [
            "muster",
            "agent",
            "-dev",
            "-encrypt=abc",
            "--encrypt",
            "def",
            "-bind=1.2.3.4",
            "-hcl",
            "encrypt = \"ghi\"",
            "-hcl=encrypt = \"jkl\"",
            "-node",
            "encrypt",
            "x",
        ];
        let shown = without_secrets(args.into_iter().map(str::to_owned));
        assert_eq!(
            shown,
            [
                "muster",
                "agent",
                "-dev",
                "-encrypt=hidden",
                "--encrypt",
                "hidden",
                "-bind=1.2.3.4",
                "-hcl",
                "hidden",
                "-hcl=hidden",
                "-node",
                "encrypt",
                "x"
            ]
        );
    }
}
