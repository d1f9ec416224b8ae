//! `acl explain`: the rule that decides, or that none does.

use std::fmt::Write as _;

use muster_client::types::{AclExplanation, AclExplanations, AclQuestion};

use super::super::command::{Call, CommonFlags, FORMAT_FLAG, Failure, Outcome, Output, Spec, wait};
use super::super::layout::document;
use super::{shown, token};

pub(in crate::cli) static EXPLAIN: Spec = Spec {
    path: "acl explain",
    synopsis: "Says which rule allows or denies something",
    operands: "RESOURCE:ACCESS [NAME]...",
    about: "Says whether a token may do something, and which rule of which policy decides, or that none does. It is about \
the token that the command sends, or with -id about another one.

    $ muster acl explain -token-file=web.token service:write web
    $ muster acl explain -id=986193 key:read config/web node:read n1
    $ muster acl explain operator:write

Resources are those of rules: acl, agent, event, intention, key, keyring, node, operator, query, service, session and snapshot; acl, \
keyring, operator and snapshot have no name. Access is read, list or write. Exits with 2 if something is denied.",
    flags: &[token::ACCESSOR, FORMAT_FLAG, token::ID],
    common_flags: CommonFlags::Api,
    run: |call| wait(explain(call))?,
};

/// The exit code where something is denied.
const DENIED: u8 = 2;
/// Resources without a name.
const NAMELESS: [&str; 4] = ["acl", "keyring", "operator", "snapshot"];
const NAMED: [&str; 8] =
    ["agent", "event", "intention", "key", "node", "query", "service", "session"];
const ACCESS: [&str; 3] = ["read", "list", "write"];

/// The questions that the operands ask.
fn questions(operands: &[String]) -> Result<Vec<AclQuestion>, Failure> {
    let usage = "ask for a resource and an access, then the name, as in `service:write web`";
    let mut operands = operands.iter();
    let mut questions = Vec::new();
    while let Some(operand) = operands.next() {
        let wrong = |text: String| Failure::new(text).or_hint(usage.to_owned());
        let Some((resource, access)) = operand.split_once(':') else {
            return Err(wrong(format!("`{operand}` has no `:`")));
        };
        let nameless = NAMELESS.contains(&resource);
        if !nameless && !NAMED.contains(&resource) {
            let near = crate::spelling::nearest(resource, NAMED.into_iter().chain(NAMELESS));
            let failure = Failure::new(format!("there is no resource `{resource}`"));
            let near = near.map(|near| format!("did you mean `{near}`?"));
            return Err(failure.or_hint(near).or_hint(usage.to_owned()));
        }
        if !ACCESS.contains(&access) || (access == "list" && resource != "key") {
            return Err(wrong(format!("`{resource}` has no access `{access}`")));
        }
        let segment = if nameless { None } else { Some(operands.next()) };
        let Some(segment) = segment.unwrap_or(Some(&String::new())).cloned() else {
            return Err(wrong(format!("`{operand}` needs a name after it")));
        };
        questions.push(AclQuestion {
            resource: resource.to_owned(),
            segment,
            access: access.to_owned(),
        });
    }
    if questions.is_empty() {
        return Err(Failure::new("Missing RESOURCE:ACCESS argument").or_hint(usage.to_owned()));
    }
    Ok(questions)
}

async fn explain(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let questions = questions(&call.operands)?;
    let client = call.client()?;
    let id = match token::id(call) {
        Some(part) => Some(token::whole(call, &client, part).await?),
        None => None,
    };
    let answer = client.acl().explain(id.as_deref(), &questions).await;
    let answer = answer.map_err(|error| call.failed("Error explaining", &error))?;
    let denied = answer.answers.iter().any(|answer| !answer.allow);
    let text = if shown.json { document(&answer) } else { text(&answer) };
    Ok(Output { code: if denied { DENIED } else { 0 }, ..Output::from(text) })
}

fn text(explanations: &AclExplanations) -> String {
    let mut text = String::new();
    if !explanations.accessor_id.is_empty() {
        let _ = writeln!(text, "token {}", explanations.accessor_id);
    }
    for answer in &explanations.answers {
        let AclQuestion { resource, segment, access } = &answer.question;
        let verdict = if answer.allow { "allowed" } else { "denied" };
        let nameless = NAMELESS.contains(&resource.as_str());
        let name = if nameless { String::new() } else { format!(" on {segment:?}") };
        let _ = writeln!(text, "{resource}:{access}{name}: {verdict}");
        let _ = writeln!(text, "   {}", reason(answer, &explanations.default_policy));
    }
    text
}

fn reason(answer: &AclExplanation, default_policy: &str) -> String {
    let AclExplanation { policy, rule, level, .. } = answer;
    // `acl`, `keyring` and `operator` are rules without a body.
    let body = if rule.contains('"') {
        format!("{rule} {{ policy = {level:?} }}")
    } else {
        format!("{rule} = {level:?}")
    };
    match answer.reason.as_str() {
        "rule" => format!("by the rule `{body}` of {policy:?}"),
        "default" => {
            format!("no rule of the token is about it: the default policy is `{default_policy}`")
        }
        "off" => "access control is off: everything is allowed".to_owned(),
        other => format!("by {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Vec<AclQuestion>, Failure> {
        let operands: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        questions(&operands)
    }

    #[test]
    fn operands_are_questions() {
        let found = asked("service:write web operator:read key:list a/b").expect("well formed");
        let found: Vec<_> =
            found.iter().map(|one| (&*one.resource, &*one.segment, &*one.access)).collect();
        assert_eq!(
            found,
            [("service", "web", "write"), ("operator", "", "read"), ("key", "a/b", "list")]
        );
        for (line, text) in [
            ("", "Missing RESOURCE:ACCESS argument"),
            ("service", "`service` has no `:`"),
            ("service:write", "`service:write` needs a name after it"),
            ("sevice:write web", "there is no resource `sevice`"),
            ("service:list web", "`service` has no access `list`"),
            ("operator:write web", "`web` has no `:`"),
        ] {
            let failure = asked(line).expect_err(line);
            assert_eq!(failure.text, text);
            assert!(failure.hint.is_some(), "{line}");
        }
    }

    #[test]
    fn what_decides_is_named() {
        let answer = |reason: &str, rule: &str| AclExplanation {
            question: AclQuestion {
                resource: "service".to_owned(),
                segment: "web".to_owned(),
                access: "write".to_owned(),
            },
            reason: reason.to_owned(),
            policy: "p".to_owned(),
            rule: rule.to_owned(),
            level: "deny".to_owned(),
            ..AclExplanation::default()
        };
        let explanations = AclExplanations {
            accessor_id: "7".to_owned(),
            default_policy: "deny".to_owned(),
            answers: vec![answer("rule", "service_prefix \"w\""), answer("default", "")],
        };
        assert_eq!(
            text(&explanations),
            "token 7\nservice:write on \"web\": denied\n   by the rule `service_prefix \"w\" { policy = \"deny\" }` \
             of \"p\"\nservice:write on \"web\": denied\n   no rule of the token is about it: the default policy \
             is `deny`\n"
        );
        assert!(reason(&answer("rule", "operator"), "").contains("`operator = \"deny\"`"));
    }
}
