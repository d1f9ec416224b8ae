//! Arguments in, exit code out; nothing else.

/// Thousands of watchers come and go. This allocator gives their memory back to the system within
/// seconds, by a thread of its own; the C library's keeps it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    muster_agent::cli::main()
}
