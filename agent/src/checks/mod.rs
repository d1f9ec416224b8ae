//! Health checks: definitions, thresholds, probes, their scheduler.
