//! Golden files: what others or the database remember, so that no change of the source changes it unseen.

use std::path::Path;
use std::{env, fs};

/// Fails with a diff where `actual` is not what the file holds; with `UPDATE_GOLDEN=1`, writes the file instead.
pub(crate) fn assert_golden(file: &Path, actual: &str) {
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(file.parent().expect("a golden file is in a folder")).expect("the folder can be made");
        return fs::write(file, actual).expect("the golden file can be written");
    }
    let expected = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert!(
        expected == actual,
        "{} differs (UPDATE_GOLDEN=1 rewrites it):\n{}",
        file.display(),
        diff(&expected, actual)
    );
}

/// Where they part: the first line that is not the same, as it was expected (`-`) and as it is now (`+`).
fn diff(expected: &str, actual: &str) -> String {
    let same = expected.lines().zip(actual.lines()).take_while(|(old, new)| old == new).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(its end)").to_owned();
    format!("{}: - {}\n{}: + {}", same + 1, line(expected), same + 1, line(actual))
}
