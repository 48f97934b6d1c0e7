//! The release function: `shared::runtime` around [`release::Release`].

fn main() -> std::process::ExitCode {
    shared::runtime::main(release::Release::connect)
}
