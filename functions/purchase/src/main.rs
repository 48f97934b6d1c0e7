fn main() -> std::process::ExitCode {
    purchase::main()
}
