//! The restock function: `shared::runtime` around [`restock::Restock`].

fn main() -> std::process::ExitCode {
    shared::worker::main(restock::Restock::connect)
}
