//! `/v1/kv/`: keys and values.

use super::routes::Route;

pub(super) const ROUTES: &[Route] = &[];
