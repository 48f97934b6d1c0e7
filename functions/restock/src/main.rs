fn main() -> std::process::ExitCode {
    restock::main()
}
