//! The payment function: `shared::worker` around [`payment::Payment`].

fn main() -> std::process::ExitCode {
    shared::worker::main(payment::Payment::connect)
}
