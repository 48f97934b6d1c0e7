//! Values that may be secret may stand in files, as container platforms hand them over: `X_FILE` names the file of what would
//! stand in `X`.

use super::Unusable;
use clap::builder::Resettable;
use clap::{Arg, Command, CommandFactory, FromArgMatches};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The most of a file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads the command line, or answers it and ends the program, as `--help` does. The default of each option whose value help does
/// not show (`hide_env_values`) is what its file says, where one is named.
pub fn read_line<Line: CommandFactory + FromArgMatches>(command: Command) -> Result<Line, Unusable> {
    let mut fault = None;
    let matches = with_files(command, &mut fault).get_matches();
    let line = Line::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    fault.map_or(Ok(line), Err)
}

fn with_files(command: Command, fault: &mut Option<Unusable>) -> Command {
    let command = command.mut_args(|arg| with_file(arg, fault));
    command.mut_subcommands(|command| with_files(command, fault))
}

fn with_file(arg: Arg, fault: &mut Option<Unusable>) -> Arg {
    let secret = arg.get_env().filter(|_| arg.is_hide_env_values_set()).and_then(OsStr::to_str).map(str::to_owned);
    let Some(variable) = secret else { return arg };
    let file_variable = format!("{variable}_FILE");
    let help =
        arg.get_help().map_or_else(String::new, |help| format!("{help}. {file_variable} names a file that has it"));
    let arg = arg.help(help);
    match value_of(&variable, env::var_os(&variable), env::var_os(&file_variable)) {
        None => arg,
        // It is kept as long as the command line is, which is as long as the program runs. The variable is empty at most.
        Some(Ok(value)) => arg.default_value(&*value.leak()).hide_default_value(true).env(Resettable::Reset),
        Some(Err(error)) => {
            fault.get_or_insert(error);
            arg
        }
    }
}

/// What the file has at this path, where one is named. No error repeats the path: by mistake, it may be the secret itself.
fn value_of(variable: &str, value: Option<OsString>, path: Option<OsString>) -> Option<Result<String, Unusable>> {
    let path = path.filter(|path| !path.is_empty())?;
    if value.is_some_and(|value| !value.is_empty()) {
        let both = format!("{variable} and {variable}_FILE are both set; one of them has to go");
        return Some(Err(Unusable(both)));
    }
    Some(read(Path::new(&path)).map_err(|reason| Unusable(format!("{variable}_FILE names a file that {reason}"))))
}

/// Without what editors write around it and nobody means: a mark of its encoding, and the end of its last line.
fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let opened = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let bytes = opened.map_err(|error| format!("cannot be read ({error})"))?;
    match text.trim_start_matches('\u{feff}').trim() {
        _ if bytes as u64 > FILE_BYTES_MAX => Err(format!("has more than {FILE_BYTES_MAX} bytes")),
        "" => Err("is empty".to_owned()),
        value => Ok(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_has_the_value_unless_the_variable_has_one_and_no_error_repeats_what_was_given() {
        let path = env::temp_dir().join(format!("turnstile-secret-{}", uuid::Uuid::now_v7()));
        let said = |value: &str, path: &OsStr| {
            let value = value_of("X", Some(value.into()), Some(path.to_owned()));
            value.map(|value| value.map_err(|error| error.to_string()))
        };
        let long = "x".repeat(FILE_BYTES_MAX as usize + 1);
        for (text, value, expected) in [
            ("secret\n", "", Ok("secret")),
            ("\u{feff} secret\r\n", "", Ok("secret")),
            (&long[1..], "", Ok(&long[1..])),
            (&long, "", Err("X_FILE names a file that has more than 65536 bytes")),
            ("\n", "", Err("X_FILE names a file that is empty")),
            ("secret", "another", Err("X and X_FILE are both set; one of them has to go")),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(said(value, path.as_ref()), Some(expected.map(str::to_owned).map_err(str::to_owned)));
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(said("another", OsStr::new("")), None);
        let error = said("", OsStr::new("amqp://guest:geheim@host")).unwrap().unwrap_err();
        assert!(error.starts_with("X_FILE names a file that cannot be read (") && !error.contains("geheim"), "{error}");
    }
}
