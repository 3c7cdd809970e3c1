//! The one program: `serve`, the workers it starts, the client and operator commands, the demo.

fn main() -> std::process::ExitCode {
    tidegate::cli::main()
}
