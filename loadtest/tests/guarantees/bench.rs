//! The load generator as a program: every figure is there, they fit together, and its exit codes say what went wrong.

mod baseline;
mod compare;
mod contend;
mod cost;
mod run;
