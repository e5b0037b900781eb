//! `launch-child` alone, for this crate's tests: what `evoke launch-child` is in the product.

use std::process::ExitCode;

fn main() -> ExitCode {
    let command: Vec<_> = std::env::args_os().skip_while(|argument| argument != "--").skip(1).collect();
    evoke_function::guard::launch_child(&command)
}
