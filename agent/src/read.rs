//! The read path: consistency mode, blocking, shared answers; one for all doors.
