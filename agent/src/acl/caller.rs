//! Who asks: the rights of a request, under the name that refusals and logs show.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use super::{Access, Authorizer, Resource};

/// AccessorID of the anonymous token.
pub const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";

/// Rights of a request. Cheap to clone; derefs to its [`Authorizer`].
#[derive(Debug, Clone)]
pub struct Caller {
    accessor: Option<Arc<str>>,
    authorizer: Arc<Authorizer>,
}

static OFF: LazyLock<Arc<Authorizer>> = LazyLock::new(|| Arc::new(Authorizer::off()));

impl Caller {
    /// Anyone while access control is off.
    pub fn off() -> Caller {
        Caller { accessor: None, authorizer: OFF.clone() }
    }

    /// The bearer of a token. `accessor` is `None` for tokens that have none, as an agent's recovery token.
    pub fn new(accessor: Option<Arc<str>>, authorizer: Arc<Authorizer>) -> Caller {
        Caller { accessor, authorizer }
    }

    /// The token's AccessorID: its name in logs.
    pub fn accessor(&self) -> Option<&str> {
        self.accessor.as_deref()
    }

    /// Its rights.
    pub fn authorizer(&self) -> &Arc<Authorizer> {
        &self.authorizer
    }

    /// An error unless it may do `access` on `resource`.
    pub fn require(&self, resource: Resource<'_>, access: Access) -> Result<(), Denied> {
        if self.authorizer.allows(resource, access).is_allowed() {
            Ok(())
        } else {
            Err(Denied::new(self.accessor.clone(), resource, access))
        }
    }
}

impl Deref for Caller {
    type Target = Authorizer;

    fn deref(&self) -> &Authorizer {
        &self.authorizer
    }
}

/// The token may not. `Display` begins with the reference's text and goes on with who lacks what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied(Box<Lacking>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lacking {
    accessor: Option<Arc<str>>,
    kind: &'static str,
    access: Access,
    name: Option<String>,
    /// The agent's endpoints name the missing right in the reference, too.
    named: bool,
}

impl Denied {
    /// Says who lacks what.
    pub fn new(accessor: Option<Arc<str>>, resource: Resource<'_>, access: Access) -> Denied {
        let name = resource.name().map(str::to_owned);
        Denied(Box::new(Lacking {
            accessor,
            kind: resource.rule_kind(),
            access,
            name,
            named: false,
        }))
    }

    /// The same, beginning `Permission denied: Missing service:write on web`, as agents answer about their own
    /// services and checks.
    #[must_use]
    pub fn naming_the_right(mut self) -> Denied {
        self.0.named = true;
        self
    }

    /// AccessorID of the token, if it has one.
    pub fn accessor(&self) -> Option<&str> {
        self.0.accessor.as_deref()
    }

    /// The right that is missing, such as `service:write`.
    pub fn permission(&self) -> String {
        format!("{}:{}", self.0.kind, self.0.access.name())
    }

    /// Name of the resource, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permission = self.permission();
        f.write_str("Permission denied")?;
        if self.0.named {
            write!(f, ": Missing {permission}")?;
            if let Some(name) = self.name() {
                write!(f, " on {name}")?;
            }
        }
        match self.accessor() {
            Some(ANONYMOUS) => f.write_str(": anonymous token")?,
            Some(accessor) => write!(f, ": token with AccessorID '{accessor}'")?,
            None => f.write_str(": token")?,
        }
        write!(f, " lacks permission '{permission}'")?;
        match self.name() {
            Some(name) => write!(f, " on {}", crate::store::Quoted(name)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Denied {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::Options;

    #[test]
    fn refusals_begin_as_the_reference_and_say_who_lacks_what() {
        let nothing = Arc::new(Authorizer::new([], Options::default()));
        let caller =
            |accessor: Option<&str>| Caller::new(accessor.map(Into::into), nothing.clone());
        let denied =
            caller(Some("a-1")).require(Resource::Service("web"), Access::Write).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "Permission denied: token with AccessorID 'a-1' lacks permission 'service:write' on \"web\""
        );
        assert_eq!(
            denied.naming_the_right().to_string(),
            "Permission denied: Missing service:write on web: token with AccessorID 'a-1' lacks permission 'service:write' on \"web\""
        );
        let denied = caller(Some(ANONYMOUS)).require(Resource::Operator, Access::Read).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "Permission denied: anonymous token lacks permission 'operator:read'"
        );
        let denied = caller(None).require(Resource::Key("a\"b"), Access::Read).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "Permission denied: token lacks permission 'key:read' on \"a\\\"b\""
        );
        assert!(Caller::off().require(Resource::Acl, Access::Write).is_ok());
    }
}
