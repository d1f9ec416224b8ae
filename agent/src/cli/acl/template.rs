//! `acl templated-policy`.

use std::fmt::Write as _;

use muster_client::types::PolicyTemplate;

use super::super::command::{Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, wait};
use super::super::layout::document;
use super::{META_FLAG, given, ids, show, shown};

const NAME: Flag = Flag::text("name", "name", "The template, as `builtin/service`.");

pub(in crate::cli) static LIST: Spec = Spec {
    path: "acl templated-policy list",
    synopsis: "Lists the templates",
    operands: "",
    about: "Lists the templates of policies.",
    flags: &[FORMAT_FLAG],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(list(call))?,
};

pub(in crate::cli) static READ: Spec = Spec {
    path: "acl templated-policy read",
    synopsis: "Shows a template",
    operands: "",
    about: "Shows a template: its rules and the variables in them.

    $ muster acl templated-policy read -name=builtin/service",
    flags: &[FORMAT_FLAG, NAME],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(read(call))?,
};

pub(in crate::cli) static PREVIEW: Spec = Spec {
    path: "acl templated-policy preview",
    synopsis: "Shows the policy that a template makes",
    operands: "",
    about: "Shows the policy that a template makes of a value. Nothing is created.

    $ muster acl templated-policy preview -name=builtin/service -var=name:web",
    flags: &[FORMAT_FLAG, META_FLAG, NAME, Flag::texts("var", "name:value", "A value.")],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(preview(call))?,
};

fn name(call: &Call) -> Result<&str, Failure> {
    given(call, "name").ok_or_else(|| Failure::new("Must specify the -name parameter"))
}

async fn list(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let all = call.client()?.acl().templates(&call.options()).await;
    let all =
        all.map_err(|error| call.failed("Failed to retrieve the templated policies list", &error))?;
    if shown.json {
        return Ok(document(&all).into());
    }
    Ok(all.keys().fold(String::new(), |text, name| text + name + "\n").into())
}

async fn read(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let name = name(call)?;
    let found = call.client()?.acl().template(name, &call.options()).await;
    let found = found.map_err(|error| {
        call.failed(&format!("Error reading templated policy {name:?}"), &error)
    })?;
    let template = found
        .ok_or_else(|| Failure::new(format!("Templated policy not found with name {name:?}")))?;
    Ok(if shown.json { document(&template) } else { text(&template) }.into())
}

fn text(template: &PolicyTemplate) -> String {
    let mut text = format!("Name:            {}\n", template.template_name);
    if !template.description.is_empty() {
        let _ = writeln!(text, "Description:     {}", template.description);
    }
    let named = template.schema.contains("\"name\"");
    let variables = if named { "name" } else { "none" };
    let _ = writeln!(text, "Input variables: {variables}");
    let example = if named { " -var name:api" } else { "" };
    let _ = writeln!(
        text,
        "Example usage:   consul acl token create -templated-policy {}{example}",
        template.template_name
    );
    let _ = writeln!(text, "Raw Template:\n{}", template.template.trim_matches('\n'));
    text
}

async fn preview(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let (name, variable) = (name(call)?, ids::variable(call)?);
    let policy = call.client()?.acl().template_preview(name, &variable).await;
    let policy = policy
        .map_err(|error| call.failed("Failed to generate the templated policy preview", &error))?;
    show::one(shown, &policy)
}
