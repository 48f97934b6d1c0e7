//! The release function: `shared::runtime` around [`release::Release`].

fn main() -> std::process::ExitCode {
    shared::worker::main(release::Release::connect)
}
