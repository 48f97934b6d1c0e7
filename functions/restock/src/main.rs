//! The restock function: `shared::worker` around [`restock::Restock`].

fn main() -> std::process::ExitCode {
    shared::worker::main(restock::Restock::connect)
}
