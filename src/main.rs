//! The program: everything is in the library.

fn main() -> std::process::ExitCode {
    restart_agent::cli::main()
}
