//! Configuration: as written (files, flags) on one side, the settings of each part on the other.
