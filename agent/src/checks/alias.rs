//! Checks that look at other checks: as well as the worst of them.

use super::{CheckResult, Status};
use crate::store::Check;

/// Result of an alias of `service` on `node`, computed from `checks`.
///
/// `checks` are those of one node, in a fixed order, without the alias itself; checks of other
/// services are passed over, checks of the node count. `service_exists` is asked only if no check
/// belongs to the service.
pub fn judge<'a>(
    node: &str,
    service: &str,
    checks: impl IntoIterator<Item = &'a Check>,
    service_exists: impl FnOnce() -> bool,
) -> CheckResult {
    let mut found = CheckResult::new(Status::Passing, "No checks found.");
    let mut of_service = service.is_empty();
    for check in checks {
        if !check.service_id.is_empty() && check.service_id != service {
            continue;
        }
        of_service |= check.service_id == service;
        let status = Status::parse(&check.status).unwrap_or(Status::Critical);
        if status > found.status {
            let output = format!("Aliased check {:?} failing: {}", check.name, check.output);
            found = CheckResult::new(status, output);
        } else if found.status == Status::Passing {
            found.output = "All checks passing.".into();
        }
    }
    if !of_service && !service_exists() {
        return CheckResult::critical(format!(
            "Service {service} could not be found on node {node}"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, service: &str, status: &str) -> Check {
        Check {
            node: "n1".into(),
            id: name.into(),
            name: name.into(),
            status: status.into(),
            notes: String::new(),
            output: "out".into(),
            service_id: service.into(),
            service_name: service.into(),
            service_tags: Vec::new(),
            kind: "ttl".into(),
            definition: "".into(),
            create_index: 0,
            modify_index: 0,
        }
    }

    #[test]
    fn the_worst_of_its_target() {
        /// Name, service and status.
        type Checks<'a> = &'a [(&'a str, &'a str, &'a str)];
        let rows: [(&str, Checks<'_>, bool, Status, &str); 8] = [
            ("web", &[], true, Status::Passing, "No checks found."),
            ("web", &[], false, Status::Critical, "Service web could not be found on node "),
            ("web", &[("a", "web", "passing")], false, Status::Passing, "All checks passing."),
            ("web", &[("a", "db", "critical")], true, Status::Passing, "No checks found."),
            (
                "web",
                &[("a", "web", "warning"), ("b", "web", "critical"), ("c", "web", "critical")],
                true,
                Status::Critical,
                "Aliased check \"b\" failing: out",
            ),
            (
                "web",
                &[("a", "web", "warning"), ("b", "web", "passing")],
                true,
                Status::Warning,
                "Aliased check \"a\" failing: out",
            ),
            (
                "web",
                &[("n", "", "critical")],
                true,
                Status::Critical,
                "Aliased check \"n\" failing: out",
            ),
            (
                "",
                &[("n", "", "passing"), ("a", "db", "critical")],
                false,
                Status::Passing,
                "All checks passing.",
            ),
        ];
        for (service, checks, exists, status, output) in rows {
            let checks: Vec<_> = checks.iter().map(|(n, s, st)| check(n, s, st)).collect();
            let found = judge("", service, &checks, || exists);
            assert_eq!((found.status, found.output.as_str()), (status, output));
        }
    }
}
