//! The restock function: `shared::runtime` around [`restock::Restock`].

fn main() -> std::process::ExitCode {
    shared::runtime::main(restock::Restock::connect)
}
