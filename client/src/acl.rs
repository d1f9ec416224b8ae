//! `/v1/acl`: tokens, policies, roles, auth methods, binding rules.
//!
//! The five kinds of objects have the same five calls; [`AclObject`] says where each kind lives.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::transport::{accepted, decode};
use crate::types::{
    AclExplanations, AclPolicy, AclQuestion, AclRole, AclToken, AuthMethod, BindingRule, Login,
    PolicyTemplate,
};
use crate::{Client, Error, Raw, ReadOptions, Response};

impl Client {
    /// Access control.
    pub fn acl(&self) -> Acl {
        Acl(self.clone())
    }
}

/// An object of access control that has an id.
pub trait AclObject: Serialize + DeserializeOwned {
    /// Path of one, without its id.
    const ONE: &'static str;
    /// Path of all.
    const ALL: &'static str;
    /// Its id in paths.
    fn id(&self) -> &str;
}

impl AclObject for AclToken {
    const ONE: &'static str = "/v1/acl/token";
    const ALL: &'static str = "/v1/acl/tokens";
    fn id(&self) -> &str {
        &self.accessor_id
    }
}

impl AclObject for AclPolicy {
    const ONE: &'static str = "/v1/acl/policy";
    const ALL: &'static str = "/v1/acl/policies";
    fn id(&self) -> &str {
        &self.id
    }
}

impl AclObject for AclRole {
    const ONE: &'static str = "/v1/acl/role";
    const ALL: &'static str = "/v1/acl/roles";
    fn id(&self) -> &str {
        &self.id
    }
}

impl AclObject for AuthMethod {
    const ONE: &'static str = "/v1/acl/auth-method";
    const ALL: &'static str = "/v1/acl/auth-methods";
    fn id(&self) -> &str {
        &self.name
    }
}

impl AclObject for BindingRule {
    const ONE: &'static str = "/v1/acl/binding-rule";
    const ALL: &'static str = "/v1/acl/binding-rules";
    fn id(&self) -> &str {
        &self.id
    }
}

/// `/v1/acl`.
#[derive(Debug, Clone)]
pub struct Acl(Client);

impl Acl {
    /// Makes the first token, which may do everything.
    pub async fn bootstrap(&self) -> Result<AclToken, Error> {
        let path = "/v1/acl/bootstrap";
        decode(path, &self.0.put(path, &[], Bytes::new()).await?)
    }
    /// One object by its id. Servers answer 403 for unknown tokens and policies, and 404 for unknown
    /// objects of other kinds: those are `None`.
    pub async fn read<T: AclObject>(
        &self,
        id: &str,
        options: &ReadOptions,
    ) -> Result<Option<T>, Error> {
        found(self.0.get(&format!("{}/{id}", T::ONE), vec![], options).await)
    }
    /// All objects of a kind. `query` narrows them, as `authmethod`.
    pub async fn list<T: AclObject>(
        &self,
        query: Vec<(&str, String)>,
        options: &ReadOptions,
    ) -> Result<Response<Vec<T>>, Error> {
        self.0.rows(T::ALL, query, options).await
    }
    /// Creates an object; returns it with its id.
    pub async fn create<T: AclObject>(&self, object: &T) -> Result<T, Error> {
        self.put(T::ONE, object).await
    }
    /// Replaces an object as a whole: fields that are left out are emptied.
    pub async fn update<T: AclObject>(&self, object: &T) -> Result<T, Error> {
        self.put(&format!("{}/{}", T::ONE, object.id()), object).await
    }
    /// Removes an object; an unknown id is fine.
    pub async fn delete<T: AclObject>(&self, id: &str) -> Result<(), Error> {
        let path = format!("{}/{id}", T::ONE);
        let raw = self.0.call(Method::DELETE, &path, &[], Bytes::new(), Duration::ZERO).await?;
        accepted(raw).map(drop)
    }
    /// The token of this client itself.
    pub async fn token_self(&self, options: &ReadOptions) -> Result<AclToken, Error> {
        Ok(self.0.get("/v1/acl/token/self", vec![], options).await?.value)
    }
    /// A token with what its policies and roles say. Servers of Consul before 1.14 answer without that.
    pub async fn token_expanded(
        &self,
        accessor_id: &str,
        options: &ReadOptions,
    ) -> Result<AclToken, Error> {
        let path = format!("/v1/acl/token/{accessor_id}");
        Ok(self.0.get(&path, vec![("expanded", "true".to_owned())], options).await?.value)
    }
    /// A new token with the rights of another.
    pub async fn token_clone(
        &self,
        accessor_id: &str,
        description: &str,
    ) -> Result<AclToken, Error> {
        let body = json!({"Description": description});
        self.put(&format!("/v1/acl/token/{accessor_id}/clone"), &body).await
    }
    /// A role by its name.
    pub async fn role_by_name(
        &self,
        name: &str,
        options: &ReadOptions,
    ) -> Result<Option<AclRole>, Error> {
        found(self.0.get(&format!("/v1/acl/role/name/{name}"), vec![], options).await)
    }
    /// Rules in the language of releases before 1.4, in today's.
    pub async fn translate_rules(&self, rules: impl Into<Bytes>) -> Result<String, Error> {
        let path = "/v1/acl/rules/translate";
        let raw = self.0.call(Method::POST, path, &[], rules.into(), Duration::ZERO).await?;
        Ok(String::from_utf8_lossy(&accepted(raw)?.body).into_owned())
    }
    /// Exchanges the proof of another system for a token.
    pub async fn login(&self, login: &Login) -> Result<AclToken, Error> {
        let path = "/v1/acl/login";
        let body = serde_json::to_vec(login)
            .map_err(|source| Error::Decode { path: path.to_owned(), source })?;
        decode(path, &self.post(path, &[], body.into()).await?)
    }
    /// Destroys the token of this client, which a login has made.
    pub async fn logout(&self) -> Result<(), Error> {
        self.post("/v1/acl/logout", &[], Bytes::new()).await.map(drop)
    }
    /// Templates of policies, by name.
    pub async fn templates(
        &self,
        options: &ReadOptions,
    ) -> Result<BTreeMap<String, PolicyTemplate>, Error> {
        Ok(self.0.get("/v1/acl/templated-policies", vec![], options).await?.value)
    }
    /// One template.
    pub async fn template(
        &self,
        name: &str,
        options: &ReadOptions,
    ) -> Result<Option<PolicyTemplate>, Error> {
        found(self.0.get(&format!("/v1/acl/templated-policy/name/{name}"), vec![], options).await)
    }
    /// The policy that a template makes of values.
    pub async fn template_preview(&self, name: &str, variable: &str) -> Result<AclPolicy, Error> {
        let path = format!("/v1/acl/templated-policy/preview/{name}");
        let body = json!({"Name": variable}).to_string();
        decode(&path, &self.post(&path, &[], body.into()).await?)
    }
    /// May a token do that, and why? About the token of this client, or about another one by its
    /// accessor. Only Muster answers.
    pub async fn explain(
        &self,
        accessor_id: Option<&str>,
        questions: &[AclQuestion],
    ) -> Result<AclExplanations, Error> {
        let path = "/v1/acl/explain";
        let accessor = accessor_id.map(|id| ("accessor", id.to_owned()));
        let body = serde_json::to_vec(questions)
            .map_err(|source| Error::Decode { path: path.to_owned(), source })?;
        let query: Vec<_> = accessor.into_iter().collect();
        decode(path, &self.post(path, &query, body.into()).await?)
    }
    /// Gives the agent a token for work of its own; an empty one takes it away. Agents of other releases know
    /// the same token by another name, so each of `kinds` is tried until one is known.
    pub async fn set_agent_token(&self, kinds: &[&str], token: &str) -> Result<(), Error> {
        let mut answer = Ok(());
        for kind in kinds {
            let path = format!("/v1/agent/token/{kind}");
            answer = self.0.put_json(&path, &[], &json!({"Token": token})).await.map(drop);
            if !answer.as_ref().is_err_and(Error::is_not_found) {
                break;
            }
        }
        answer
    }

    async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        decode(path, &self.0.put_json(path, &[], body).await?)
    }

    async fn post(&self, path: &str, query: &[(&str, String)], body: Bytes) -> Result<Raw, Error> {
        accepted(self.0.call(Method::POST, path, query, body, Duration::ZERO).await?)
    }
}

/// A 404 without a body is the answer for what is not there; with a body it is an error.
fn found<T>(answer: Result<Response<T>, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found.value)),
        Err(Error::Status { code: StatusCode::NOT_FOUND, text }) if text.is_empty() => Ok(None),
        Err(error) => Err(error),
    }
}
