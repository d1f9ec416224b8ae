//! `version`.

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Program, Spec};

/// The version of the reference whose API is spoken.
const SPOKEN: &str = "1.8.7";

pub(super) static VERSION: Spec = Spec {
    path: "version",
    synopsis: "Prints the version",
    operands: "",
    about: "Prints the version of this program, and of the API that it speaks.",
    flags: &[Flag::text("format", "pretty|json", "For people, as by default, or for programs.")],
    common_flags: CommonFlags::None,
    run: version,
};

/// The text for people. Scripts that know the program as `consul` look for its version.
pub(super) fn text(program: Program) -> String {
    let own = env!("CARGO_PKG_VERSION");
    if program == Program::CONSUL {
        return format!("Consul v{SPOKEN}\nSpoken by Muster v{own}\n");
    }
    format!("Muster v{own}\nSpeaks the API of Consul v{SPOKEN}\n")
}

fn version(call: &Call) -> Outcome {
    match call.values.text("format").unwrap_or("pretty") {
        "pretty" => Ok(text(call.program).into()),
        "json" => {
            let own = env!("CARGO_PKG_VERSION");
            let version = if call.program == Program::CONSUL { SPOKEN } else { own };
            Ok(format!(
                "{{\n   \"Version\": \"{version}\",\n   \"Muster\": \"{own}\",\n   \"API\": \"{SPOKEN}\"\n}}\n"
            )
            .into())
        }
        other => {
            Err(Failure::new(format!("Invalid format: {other}, valid formats are [pretty json]")))
        }
    }
}
