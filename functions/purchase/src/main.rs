//! The purchase function: `shared::runtime` around [`purchase::Purchase`].

fn main() -> std::process::ExitCode {
    shared::worker::main(purchase::Purchase::connect)
}
