//! muster-registrator.
