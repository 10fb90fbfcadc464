//! The program `cofferd`. Everything is in the library.

fn main() -> std::process::ExitCode {
    cofferd::main()
}
