fn main() -> std::process::ExitCode {
    web::main()
}
