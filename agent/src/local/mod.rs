//! What this agent claims: its services and checks, kept on disk, and the catalog corrected to match.
