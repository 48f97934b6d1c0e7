//! The purchase function: `shared::runtime` around [`purchase::Purchase`].

fn main() -> std::process::ExitCode {
    shared::runtime::main(purchase::Purchase::connect)
}
