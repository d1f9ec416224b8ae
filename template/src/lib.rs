//! muster-template.
