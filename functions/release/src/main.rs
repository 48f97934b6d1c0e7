//! The release function: `shared::worker` around [`release::Release`].

fn main() -> std::process::ExitCode {
    shared::worker::main(release::Release::connect)
}
