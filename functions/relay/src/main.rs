//! The relay function's process around [`relay::serve`].

fn main() -> std::process::ExitCode {
    shared::worker::main_of_service(relay::PROGRAM, relay::serve)
}
