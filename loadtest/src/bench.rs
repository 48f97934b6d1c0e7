//! What is measured beyond one sale: over many sales (`compare`, `cost`), and beside them, of the servers that Turnstile replaces
//! (`baseline`) and of conflicts alone (`contend`).

pub mod baseline;
pub mod compare;
pub mod contend;
pub mod cost;
mod cpu;
mod measure;
mod row;
mod table;

/// In which order so many rows are run: (repetition, from 1 on; index of the row). One round goes forward and the next one
/// back, so that within a round nobody is always first.
fn turns(rows: usize, repetitions: u32) -> Vec<(u32, usize)> {
    let round = |repetition: u32| {
        let is_forward = repetition % 2 == 1;
        (0..rows).map(move |place| (repetition, if is_forward { place } else { rows - 1 - place }))
    };
    (1..=repetitions).flat_map(round).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_row_has_its_turn_in_each_round_forward_and_back() {
        let turns = super::turns;
        assert_eq!(turns(3, 3), [(1, 0), (1, 1), (1, 2), (2, 2), (2, 1), (2, 0), (3, 0), (3, 1), (3, 2)]);
        assert_eq!(turns(3, 0), []);
    }
}
