//! From what was written to the settings of each part. What cannot be used together is refused here.

use std::path::Path;
use std::time::Duration;

use muster_client::{Secret, Settings as ClientSettings};

use super::values::{catalog_address, resolve_ip};
use super::{Args, DeregisterArg, Error, FamilyArg, ModeArg, OnExitArg, SuffixArg};
use crate::address::{self, Family, Mode};
use crate::metadata::parse_list;
use crate::plan::{self, Deregister, Filter, NameSuffix};
use crate::reconcile::{OnExit, Policy};

impl Args {
    /// Where the engine is.
    pub fn engine_address(&self) -> Result<String, Error> {
        let wants_tls =
            |value: std::ffi::OsString| !value.is_empty() && value != "0" && value != "false";
        if std::env::var_os("DOCKER_TLS_VERIFY").is_some_and(wants_tls) {
            return Err(Error::DockerTls);
        }
        Ok(match self.docker_host.as_deref() {
            Some(address) if !address.is_empty() => address.to_owned(),
            // The old registrator's images mount the socket there.
            _ if !Path::new("/var/run/docker.sock").exists()
                && Path::new("/tmp/docker.sock").exists() =>
            {
                "unix:///tmp/docker.sock".to_owned()
            }
            _ => "unix:///var/run/docker.sock".to_owned(),
        })
    }

    /// How to reach the agent: the environment, then the argument.
    pub fn client_settings(&self) -> Result<ClientSettings, Error> {
        let mut settings = ClientSettings::from_env()?;
        settings.timeout = Duration::from_secs(10);
        if let Some(uri) = &self.catalog
            && let Some(address) = catalog_address(uri)?
        {
            settings.address = address;
        }
        if let Some(path) = &self.token_file {
            let token = Secret::from_file(path)?.ok_or_else(|| Error::Token(path.clone()))?;
            settings.token = Some(token);
        }
        if let Some(token) = &self.token {
            settings.token = Some(token.0.clone());
        }
        Ok(settings)
    }

    /// How containers become services; the name and own networks are filled in later.
    pub fn plan_settings(&self) -> Result<plan::Settings, Error> {
        let host_ip = self.ip.as_deref().filter(|ip| !ip.is_empty()).map(resolve_ip).transpose()?;
        if let Some(ip) = host_ip.filter(|ip| ip.is_loopback() && !self.allow_loopback) {
            return Err(Error::Loopback(ip));
        }
        if self.tags.contains("{{") {
            return Err(Error::TagTemplate(self.tags.clone()));
        }
        let filters = self
            .filter
            .iter()
            .map(|text| Filter::parse(text).ok_or_else(|| Error::Filter(text.clone())))
            .collect::<Result<_, _>>()?;
        let some_text =
            |text: &Option<String>| text.as_ref().filter(|text| !text.is_empty()).cloned();
        Ok(plan::Settings {
            address: address::Settings {
                mode: match self.address_mode {
                    _ if self.internal => Mode::Internal,
                    ModeArg::Published => Mode::Published,
                    ModeArg::Internal => Mode::Internal,
                    ModeArg::Auto => Mode::Auto,
                },
                family: match self.ip_family {
                    FamilyArg::V4 => Family::V4,
                    FamilyArg::V6 => Family::V6,
                    FamilyArg::Dual => Family::Dual,
                },
                host_ip,
                ip_label: some_text(&self.use_ip_from_label),
                network: some_text(&self.network),
                allow_loopback: self.allow_loopback,
                ..address::Settings::default()
            },
            explicit: self.explicit,
            filters,
            tags: parse_list(&self.tags),
            name_suffix: match self.name_suffix {
                SuffixArg::Auto => NameSuffix::Auto,
                SuffixArg::Always => NameSuffix::Always,
                SuffixArg::Never => NameSuffix::Never,
            },
            service_prefix: self.service_prefix.clone(),
            heartbeat: Some(self.ttl).filter(|ttl| !ttl.is_zero()),
            health_ttl: self.health_ttl.max(Duration::from_secs(1)),
            ..plan::Settings::new(String::new())
        })
    }

    /// When and how hard to try.
    pub fn policy(&self) -> Result<Policy, Error> {
        let shortest = match self.ttl {
            Duration::ZERO => self.health_ttl,
            ttl => ttl.min(self.health_ttl),
        };
        let beat_every = match self.ttl_refresh {
            Duration::ZERO => shortest / 3,
            refresh if refresh >= shortest && !self.ttl.is_zero() => {
                return Err(Error::Refresh("--ttl"));
            }
            refresh if refresh >= shortest => return Err(Error::Refresh("--health-ttl")),
            refresh => refresh,
        };
        Ok(Policy {
            deregister: match self.deregister {
                DeregisterArg::Always => Deregister::Always,
                DeregisterArg::OnSuccess => Deregister::OnSuccess,
                DeregisterArg::Never => Deregister::Never,
            },
            // Never, for all that matters.
            resync: match self.resync {
                Duration::ZERO => Duration::from_hours(24 * 365),
                resync => resync,
            },
            beat_every,
            drain_timeout: self.drain_timeout,
            retry_interval: self.retry_interval.max(Duration::from_millis(10)),
            hold_max: self.restart_hold_max,
        })
    }

    /// What is left behind at the end.
    pub fn on_exit(&self) -> OnExit {
        match self.on_exit {
            OnExitArg::Keep => OnExit::Keep,
            OnExitArg::Deregister => OnExit::Deregister,
            OnExitArg::Maintenance => OnExit::Maintenance,
        }
    }

    /// How many failed attempts to reach the agent are allowed at the start.
    pub fn attempts_max(&self) -> Option<u32> {
        u32::try_from(self.retry_attempts).ok()
    }
}
