fn main() -> std::process::ExitCode {
    relay::main()
}
