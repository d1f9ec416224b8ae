//! One handle for each family of paths.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

use crate::rows::listed;
use crate::transport::{accepted, decode};
use crate::types::{
    AgentCheck, AgentService, CatalogDeregistration, CatalogNode, CatalogRegistration,
    CatalogService, CheckDefinition, CheckTimes, HealthCheck, KvPair, Member, Node,
    ServiceDefinition, ServiceEntry, Session, SessionDefinition, Status, Tags,
};
use crate::{Client, Error, Raw, ReadOptions, Response, Rows, ServiceQuery};

impl Client {
    /// The agent's own state.
    pub fn agent(&self) -> Agent {
        Agent(self.clone())
    }
    /// Nodes and services.
    pub fn catalog(&self) -> Catalog {
        Catalog(self.clone())
    }
    /// Instances with their checks.
    pub fn health(&self) -> Health {
        Health(self.clone())
    }
    /// Keys and values.
    pub fn kv(&self) -> Kv {
        Kv(self.clone())
    }
    /// Lock holders.
    pub fn session(&self) -> Sessions {
        Sessions(self.clone())
    }
    /// Leader and peers.
    pub fn status(&self) -> StatusApi {
        StatusApi(self.clone())
    }
    /// User events.
    pub fn event(&self) -> Event {
        Event(self.clone())
    }
}

/// `/v1/agent`.
#[derive(Debug, Clone)]
pub struct Agent(Client);

impl Agent {
    /// Its configuration, member entry and statistics.
    pub async fn self_(&self) -> Result<Value, Error> {
        Ok(self.0.get("/v1/agent/self", vec![], &ReadOptions::default()).await?.value)
    }
    /// The members it knows; of all datacenters with `wan`.
    pub async fn members(&self, wan: bool) -> Result<Vec<Member>, Error> {
        let query = if wan { vec![("wan", "1".into())] } else { vec![] };
        self.list("/v1/agent/members", query).await
    }
    /// Its services by id.
    pub async fn services(&self) -> Result<BTreeMap<String, AgentService>, Error> {
        self.list("/v1/agent/services", vec![]).await
    }
    /// Its checks by id.
    pub async fn checks(&self) -> Result<BTreeMap<String, AgentCheck>, Error> {
        self.list("/v1/agent/checks", vec![]).await
    }
    /// Rows that cannot be read are left out, and named in the log. [`Client::rows`] hands them
    /// out.
    async fn list<R: Rows>(&self, path: &str, query: Vec<(&str, String)>) -> Result<R, Error> {
        let found = self.0.rows(path, query, &ReadOptions::default()).await?;
        if !found.meta.odd_rows.is_empty() {
            let rows = listed(&found.meta.odd_rows);
            warn!(path, rows, "rows that cannot be read are left out of the answer");
        }
        Ok(found.value)
    }
    /// When its checks were last heard of, by id. Agents of Consul do not say.
    pub async fn check_times(&self) -> Result<BTreeMap<String, CheckTimes>, Error> {
        let query = vec![("times", String::new())];
        Ok(self.0.get("/v1/agent/checks", query, &ReadOptions::default()).await?.value)
    }
    /// Registers a service or changes it. `replace_existing_checks` drops checks that the
    /// definition does not name.
    pub async fn register_service(
        &self,
        definition: &ServiceDefinition,
        replace_existing_checks: bool,
    ) -> Result<(), Error> {
        let query: &[(&str, String)] = if replace_existing_checks {
            &[("replace-existing-checks", String::new())]
        } else {
            &[]
        };
        self.0.put_json("/v1/agent/service/register", query, definition).await.map(drop)
    }
    /// Removes a service and its checks; an unknown id is fine.
    pub async fn deregister_service(&self, id: &str) -> Result<(), Error> {
        self.put(&format!("/v1/agent/service/deregister/{id}"), &[]).await
    }
    /// Registers a check.
    pub async fn register_check(&self, definition: &CheckDefinition) -> Result<(), Error> {
        let path = "/v1/agent/check/register";
        let wrong = |source| Error::Decode { path: path.to_owned(), source };
        let mut body = serde_json::to_value(definition).map_err(wrong)?;
        // Alone, a check calls its id `ID`; inside a service it is `CheckID`.
        if let Some(object) = body.as_object_mut()
            && let Some(id) = object.remove("CheckID")
        {
            object.insert("ID".into(), id);
        }
        self.0.put_json(path, &[], &body).await.map(drop)
    }
    /// Removes a check; an unknown id is fine.
    pub async fn deregister_check(&self, id: &str) -> Result<(), Error> {
        self.put(&format!("/v1/agent/check/deregister/{id}"), &[]).await
    }
    /// Reports the state of a TTL check.
    pub async fn update_ttl(
        &self,
        check_id: &str,
        status: Status,
        output: &str,
    ) -> Result<(), Error> {
        let body = json!({"Status": status, "Output": output});
        self.0.put_json(&format!("/v1/agent/check/update/{check_id}"), &[], &body).await.map(drop)
    }
    /// Takes the whole node out of service, or back.
    pub async fn node_maintenance(&self, enable: bool, reason: &str) -> Result<(), Error> {
        self.put("/v1/agent/maintenance", &maintenance(enable, reason)).await
    }
    /// Takes one service out of service, or back.
    pub async fn service_maintenance(
        &self,
        id: &str,
        enable: bool,
        reason: &str,
    ) -> Result<(), Error> {
        self.put(&format!("/v1/agent/service/maintenance/{id}"), &maintenance(enable, reason)).await
    }
    /// Leaves the cluster and ends the agent.
    pub async fn leave(&self) -> Result<(), Error> {
        self.put("/v1/agent/leave", &[]).await
    }
    /// Reads the configuration again.
    pub async fn reload(&self) -> Result<(), Error> {
        self.put("/v1/agent/reload", &[]).await
    }
    /// Joins another agent.
    pub async fn join(&self, address: &str, wan: bool) -> Result<(), Error> {
        let query: &[(&str, String)] = if wan { &[("wan", "1".to_owned())] } else { &[] };
        self.put(&format!("/v1/agent/join/{address}"), query).await
    }
    /// Declares a failed member gone.
    pub async fn force_leave(&self, node: &str, prune: bool) -> Result<(), Error> {
        let query: &[(&str, String)] = if prune { &[("prune", "1".to_owned())] } else { &[] };
        self.put(&format!("/v1/agent/force-leave/{node}"), query).await
    }

    async fn put(&self, path: &str, query: &[(&str, String)]) -> Result<(), Error> {
        self.0.put(path, query, Bytes::new()).await.map(drop)
    }
}

/// Of a list that has one row at most. A row that cannot be read is not an absent one.
fn first<T>(path: &str, found: Response<Vec<T>>) -> Result<Response<Option<T>>, Error> {
    if let ([], [odd, ..]) = (&*found.value, &*found.meta.odd_rows) {
        let source = serde::de::Error::custom(odd);
        return Err(Error::Decode { path: path.to_owned(), source });
    }
    Ok(Response { value: found.value.into_iter().next(), meta: found.meta })
}

fn maintenance(enable: bool, reason: &str) -> Vec<(&'static str, String)> {
    let mut query = vec![("enable", enable.to_string())];
    if !reason.is_empty() {
        query.push(("reason", reason.to_owned()));
    }
    query
}

/// `/v1/catalog`.
#[derive(Debug, Clone)]
pub struct Catalog(Client);

impl Catalog {
    /// Names of all datacenters.
    pub async fn datacenters(&self) -> Result<Vec<String>, Error> {
        Ok(self.0.get("/v1/catalog/datacenters", vec![], &ReadOptions::default()).await?.value)
    }
    /// All nodes.
    pub async fn nodes(&self, options: &ReadOptions) -> Result<Response<Vec<Node>>, Error> {
        self.0.rows("/v1/catalog/nodes", vec![], options).await
    }
    /// Names and tags of all services.
    pub async fn services(
        &self,
        options: &ReadOptions,
    ) -> Result<Response<BTreeMap<String, Vec<String>>>, Error> {
        let found: Response<BTreeMap<String, Tags>> =
            self.0.rows("/v1/catalog/services", vec![], options).await?;
        let tagged = found.value.into_iter().map(|(name, Tags(tags))| (name, tags));
        Ok(Response { value: tagged.collect(), meta: found.meta })
    }
    /// Instances of one service.
    pub async fn service(
        &self,
        name: &str,
        query: &ServiceQuery,
        options: &ReadOptions,
    ) -> Result<Response<Vec<CatalogService>>, Error> {
        let tags = query.tags.iter().map(|tag| ("tag", tag.clone())).collect();
        self.0.rows(&format!("/v1/catalog/service/{name}"), tags, options).await
    }
    /// One node with its services.
    pub async fn node(
        &self,
        name: &str,
        options: &ReadOptions,
    ) -> Result<Response<Option<CatalogNode>>, Error> {
        self.0.rows(&format!("/v1/catalog/node/{name}"), vec![], options).await
    }
    /// Puts a node, a service, checks into the catalog without an agent.
    pub async fn register(&self, registration: &CatalogRegistration) -> Result<(), Error> {
        self.0.put_json("/v1/catalog/register", &[], registration).await.map(drop)
    }
    /// Removes a node, a service or a check.
    pub async fn deregister(&self, what: &CatalogDeregistration) -> Result<(), Error> {
        self.0.put_json("/v1/catalog/deregister", &[], what).await.map(drop)
    }
}

/// `/v1/health`.
#[derive(Debug, Clone)]
pub struct Health(Client);

impl Health {
    /// Instances of a service with their checks.
    pub async fn service(
        &self,
        name: &str,
        query: &ServiceQuery,
        options: &ReadOptions,
    ) -> Result<Response<Vec<ServiceEntry>>, Error> {
        let mut pairs: Vec<_> = query.tags.iter().map(|tag| ("tag", tag.clone())).collect();
        if query.passing {
            pairs.push(("passing", String::new()));
        }
        self.0.rows(&format!("/v1/health/service/{name}"), pairs, options).await
    }
    /// Checks of one node.
    pub async fn node(
        &self,
        node: &str,
        options: &ReadOptions,
    ) -> Result<Response<Vec<HealthCheck>>, Error> {
        self.0.rows(&format!("/v1/health/node/{node}"), vec![], options).await
    }
    /// Checks of one service.
    pub async fn checks(
        &self,
        service: &str,
        options: &ReadOptions,
    ) -> Result<Response<Vec<HealthCheck>>, Error> {
        self.0.rows(&format!("/v1/health/checks/{service}"), vec![], options).await
    }
    /// Checks in a state: `any`, `passing`, `warning` or `critical`.
    pub async fn state(
        &self,
        state: &str,
        options: &ReadOptions,
    ) -> Result<Response<Vec<HealthCheck>>, Error> {
        self.0.rows(&format!("/v1/health/state/{state}"), vec![], options).await
    }
}

/// How to write a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Opaque number.
    pub flags: u64,
    /// Only if its ModifyIndex is this; 0: only if it does not exist.
    pub cas: Option<u64>,
    /// Take its lock for this session.
    pub acquire: Option<String>,
    /// Give its lock back from this session.
    pub release: Option<String>,
    /// Another datacenter.
    pub datacenter: Option<String>,
}

/// `/v1/kv`.
#[derive(Debug, Clone)]
pub struct Kv(Client);

impl Kv {
    /// One key; `None` when it does not exist (the index is good for waiting all the same).
    pub async fn get(
        &self,
        key: &str,
        options: &ReadOptions,
    ) -> Result<Response<Option<KvPair>>, Error> {
        let path = format!("/v1/kv/{key}");
        first(&path, self.0.find_rows(&path, vec![], options).await?)
    }
    /// Every pair whose key starts with `prefix`.
    pub async fn list(
        &self,
        prefix: &str,
        options: &ReadOptions,
    ) -> Result<Response<Vec<KvPair>>, Error> {
        let query = vec![("recurse", String::new())];
        self.0.find_rows(&format!("/v1/kv/{prefix}"), query, options).await
    }
    /// Keys under `prefix`, cut after the first `separator` beyond it.
    pub async fn keys(
        &self,
        prefix: &str,
        separator: &str,
        options: &ReadOptions,
    ) -> Result<Response<Vec<String>>, Error> {
        let mut query = vec![("keys", String::new())];
        if !separator.is_empty() {
            query.push(("separator", separator.to_owned()));
        }
        self.0.find_rows(&format!("/v1/kv/{prefix}"), query, options).await
    }
    /// Writes a key. `false`: the compare-and-set or the lock was lost.
    pub async fn put(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        options: &PutOptions,
    ) -> Result<bool, Error> {
        let mut query = Vec::new();
        if options.flags != 0 {
            query.push(("flags", options.flags.to_string()));
        }
        for (name, value) in [
            ("cas", options.cas.map(|cas| cas.to_string())),
            ("acquire", options.acquire.clone()),
            ("release", options.release.clone()),
            ("dc", options.datacenter.clone()),
        ] {
            if let Some(value) = value {
                query.push((name, value));
            }
        }
        let path = format!("/v1/kv/{key}");
        decode(&path, &self.0.put(&path, &query, value.into()).await?)
    }
    /// Removes a key; with `cas` only if its ModifyIndex is that.
    pub async fn delete(&self, key: &str, cas: Option<u64>) -> Result<bool, Error> {
        self.remove(key, cas.map(|cas| ("cas", cas.to_string()))).await
    }
    /// Removes every key that starts with `prefix`.
    pub async fn delete_tree(&self, prefix: &str) -> Result<bool, Error> {
        self.remove(prefix, Some(("recurse", String::new()))).await
    }

    async fn remove(&self, key: &str, query: Option<(&str, String)>) -> Result<bool, Error> {
        let path = format!("/v1/kv/{key}");
        let raw: Raw = self
            .0
            .call(Method::DELETE, &path, query.as_slice(), Bytes::new(), Duration::ZERO)
            .await?;
        decode(&path, &accepted(raw)?)
    }
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

/// `/v1/session`.
#[derive(Debug, Clone)]
pub struct Sessions(Client);

impl Sessions {
    /// Creates a session; returns its id.
    pub async fn create(&self, definition: &SessionDefinition) -> Result<String, Error> {
        let path = "/v1/session/create";
        let created: Created = decode(path, &self.0.put_json(path, &[], definition).await?)?;
        Ok(created.id)
    }
    /// Ends a session; an unknown id is fine.
    pub async fn destroy(&self, id: &str) -> Result<(), Error> {
        self.0.put(&format!("/v1/session/destroy/{id}"), &[], Bytes::new()).await.map(drop)
    }
    /// Extends its life; `None` when it is gone.
    pub async fn renew(&self, id: &str) -> Result<Option<Session>, Error> {
        let path = format!("/v1/session/renew/{id}");
        match self.0.put(&path, &[], Bytes::new()).await {
            Ok(raw) => Ok(decode::<Vec<Session>>(&path, &raw)?.into_iter().next()),
            Err(Error::Status { code, .. }) if code == http::StatusCode::NOT_FOUND => Ok(None),
            Err(e) => Err(e),
        }
    }
    /// One session.
    pub async fn info(
        &self,
        id: &str,
        options: &ReadOptions,
    ) -> Result<Response<Option<Session>>, Error> {
        let path = format!("/v1/session/info/{id}");
        first(&path, self.0.rows(&path, vec![], options).await?)
    }
    /// All sessions.
    pub async fn list(&self, options: &ReadOptions) -> Result<Response<Vec<Session>>, Error> {
        self.0.rows("/v1/session/list", vec![], options).await
    }
}

/// `/v1/status`.
#[derive(Debug, Clone)]
pub struct StatusApi(Client);

impl StatusApi {
    /// `ip:port` of the leader; empty when there is none.
    pub async fn leader(&self) -> Result<String, Error> {
        Ok(self.0.get("/v1/status/leader", vec![], &ReadOptions::default()).await?.value)
    }
    /// `ip:port` of every server.
    pub async fn peers(&self) -> Result<Vec<String>, Error> {
        Ok(self.0.get("/v1/status/peers", vec![], &ReadOptions::default()).await?.value)
    }
}

/// `/v1/event`.
#[derive(Debug, Clone)]
pub struct Event(Client);

impl Event {
    /// Fires a user event; `filters` are `node`, `service` and `tag`. Returns its id.
    pub async fn fire(
        &self,
        name: &str,
        payload: impl Into<Bytes>,
        filters: &[(&str, String)],
    ) -> Result<String, Error> {
        let path = format!("/v1/event/fire/{name}");
        let fired: Created = decode(&path, &self.0.put(&path, filters, payload.into()).await?)?;
        Ok(fired.id)
    }
}
