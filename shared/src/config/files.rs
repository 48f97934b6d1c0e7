//! Values that may be secret may stand in files, as container platforms hand them over: `X_FILE` names the file of what would
//! stand in `X`.

use super::Unusable;
use clap::{Arg, Command, CommandFactory, FromArgMatches};
use std::{env, ffi::OsStr, fs::File, io::Read, path::Path};

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
    let Some(path) = env::var_os(&file_variable).filter(|path| !path.is_empty()) else { return arg };
    let value = match env::var_os(&variable) {
        Some(_) => Err(Unusable(format!("{variable} and {file_variable} are both set; one of them has to go"))),
        None => {
            let named = format!("{file_variable} names {}, which", path.display());
            read(Path::new(&path)).map_err(|reason| Unusable(format!("{named} {reason}")))
        }
    };
    match value {
        // It is kept as long as the command line is, which is as long as the program runs.
        Ok(value) => arg.default_value(&*value.leak()).hide_default_value(true),
        Err(error) => {
            fault.get_or_insert(error);
            arg
        }
    }
}

/// Without the end of its last line, which editors write and nobody means.
fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let opened = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    opened.map_err(|error| format!("cannot be read ({error})"))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text) }
}
