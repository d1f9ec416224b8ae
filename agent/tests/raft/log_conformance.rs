//! What every log store must do.
