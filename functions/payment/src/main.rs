//! The payment function: `shared::runtime` around [`payment::Payment`].

fn main() -> std::process::ExitCode {
    shared::runtime::main(payment::Payment::connect)
}
