//! Builds the parts, starts them, stops them in order; alone knows them all.
