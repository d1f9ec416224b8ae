//! The HTTP door: one file per family of paths. Doors parse, authorise, call, format.
