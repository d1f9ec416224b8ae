//! Maintenance: a critical check that an operator sets, and takes away again.

use std::sync::Arc;

use super::{Error, Local, NODE_MAINTENANCE, Source, definition};
use crate::local::persistence::{Kind, PersistedCheck, Write};
use crate::store::Service;

impl Local {
    /// Begins a maintenance of the node; one under way stays as it is.
    pub async fn begin_node_maintenance(&self, reason: &str) -> Result<(), Error> {
        self.begin_maintenance(None, reason).await
    }

    /// Ends the maintenance of the node.
    pub async fn end_node_maintenance(&self) -> Result<(), Error> {
        self.deregister_check(NODE_MAINTENANCE).await.map(|_| ())
    }

    /// Begins a maintenance of a service; one under way stays as it is.
    pub async fn begin_service_maintenance(&self, id: &str, reason: &str) -> Result<(), Error> {
        let service = self.service(id).ok_or_else(|| Error::UnknownService(id.to_owned()))?;
        self.begin_maintenance(Some(service), reason).await
    }

    /// Ends the maintenance of a service.
    pub async fn end_service_maintenance(&self, id: &str) -> Result<(), Error> {
        if self.service(id).is_none() {
            return Err(Error::UnknownService(id.to_owned()));
        }
        self.deregister_check(&definition::maintenance_id(id)).await.map(|_| ())
    }

    async fn begin_maintenance(
        &self,
        service: Option<Arc<Service>>,
        reason: &str,
    ) -> Result<(), Error> {
        let row = definition::maintenance(&self.inner.name, service.as_deref(), reason);
        let turn = self.turn().await;
        if self.check(&row.id).is_some() {
            return Ok(());
        }
        let kept = PersistedCheck::Maintenance {
            service_id: service.map(|service| service.id.to_string()),
            reason: reason.to_owned(),
        };
        let (local, write) = (self.clone(), Write::put(Kind::Checks, &row.id, &kept));
        self.keep(vec![write], move || {
            let mut registrations = local.registrations();
            registrations.put_check(row, None, 0, Source::Api);
            local.changed_in(&mut registrations);
            drop(registrations);
            drop(turn);
        })
        .await
    }
}
