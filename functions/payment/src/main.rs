fn main() -> std::process::ExitCode {
    shared::worker::main(payment::Payment::connect)
}
