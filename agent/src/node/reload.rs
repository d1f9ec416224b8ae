//! A reload: the configuration is read again and compared with the running one, and only what differs is
//! touched.

use tracing::{info, warn};

use super::{Node, REFERENCE_VERSION, chain, systemd};
use crate::config::{self, Config};
use crate::http::Backend;
use crate::telemetry;

impl Node {
    /// Takes the configuration over as it is now. A mistake anywhere changes nothing.
    pub(super) async fn reload(
        &mut self,
        reread: &impl Fn() -> Result<Config, config::Error>,
    ) -> Result<(), String> {
        systemd::reloading();
        let done = match reread() {
            Err(error) => Err(error.to_string()),
            Ok(config) => self.take_over(config).await,
        };
        match &done {
            Ok(()) => info!("the configuration was reloaded"),
            Err(reason) => warn!(reason, "the reload failed: nothing was changed"),
        }
        systemd::ready();
        done
    }

    /// Steps that can be refused come first; those that follow cannot fail.
    async fn take_over(&mut self, config: Config) -> Result<(), String> {
        let exists = |id: &str| self.local.has_service_of_api(id);
        config.judge_definitions_beside(exists).map_err(|error| error.to_string())?;
        let own = &config.local;
        self.local
            .reload(&own.services, &own.checks, &own.authorities, &own.node_meta)
            .await
            .map_err(|error| chain(&error))?;
        if config.log.level != self.running.log.level {
            telemetry::set_level(&config.log.level);
        }
        self.watches.set(config.watches.clone());
        self.names.set(config.dns.clone());
        self.limits.set(config.http_connections_per_client, config.http_rates.clone());
        if let Backend::Elsewhere(upstream) = &self.backend {
            upstream.set_rate(config.upstream.rate);
        }
        let waiting = config.needs_restart(&self.running);
        if !waiting.is_empty() {
            let keys = waiting.join(", ");
            warn!(keys, "these keys were changed and take effect at the next start");
        }
        self.effective = self.effective.reloaded(&config);
        self.shown.set(self.effective.debug(&self.id, REFERENCE_VERSION));
        self.followed.send_replace(config.followed.clone());
        self.running = config;
        Ok(())
    }
}
