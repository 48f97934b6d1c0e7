fn main() -> std::process::ExitCode {
    shared::worker::main(restock::Restock::connect)
}
