fn main() -> std::process::ExitCode {
    shared::worker::main(purchase::Purchase::connect)
}
