fn main() -> std::process::ExitCode {
    shared::worker::main_of_service(relay::PROGRAM, relay::serve)
}
