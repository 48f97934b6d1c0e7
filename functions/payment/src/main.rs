//! The payment function: `shared::runtime` around [`payment::Payment`].

fn main() -> std::process::ExitCode {
    shared::worker::main(payment::Payment::connect)
}
