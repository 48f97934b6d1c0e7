//! Golden files: what others or the database remember, so that no change of the source changes it unseen.

use std::{env, fs, path::Path};

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

/// The lines that only one of both has, in order: `-` was expected, `+` is there now.
fn diff(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    // common[i][j]: the most lines that old[i..] and new[j..] have in common, in order.
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] =
                if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("{}: - {}", i + 1, old[i]));
            i += 1;
        } else {
            lines.push(format!("{}: + {}", j + 1, new[j]));
            j += 1;
        }
    }
    lines.join("\n")
}
