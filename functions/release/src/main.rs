fn main() -> std::process::ExitCode {
    shared::worker::main(release::Release::connect)
}
