//! `?filter=`: the boolean expressions of the API.
