//! Could a history of concurrent reads and writes of one register have happened one after the
//! other? Wing and Gong's search, with the states it has been in remembered (Lowe).

use std::collections::HashSet;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    Write(u64),
    /// What was found; 0: nothing.
    Read(u64),
}

/// One operation with its times in any unit. `ended` is `None` for a write whose outcome is
/// unknown: it may take effect at any time, or never.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) deed: Deed,
    pub(crate) began: u128,
    pub(crate) ended: Option<u128>,
}

/// `Err` with the history if there is no order. At most 128 operations.
pub(crate) fn check(history: &[Operation]) -> Result<(), String> {
    assert!(history.len() <= 128, "{} operations are too many", history.len());
    let certain = history.iter().enumerate().filter(|(_, it)| it.ended.is_some());
    let certain: u128 = certain.map(|(at, _)| 1 << at).sum();
    let mut seen = HashSet::new();
    let mut todo = vec![(0_u128, 0_u64)];
    while let Some((done, value)) = todo.pop() {
        if done & certain == certain {
            return Ok(());
        }
        if !seen.insert((done, value)) {
            continue;
        }
        let open = |at: usize| done & (1 << at) == 0;
        let all = || history.iter().enumerate().filter(|(at, _)| open(*at));
        // Nothing may come after what had ended before it began.
        let first_end = all().filter_map(|(_, it)| it.ended).min().unwrap_or(u128::MAX);
        for (at, operation) in all().filter(|(_, it)| it.began <= first_end) {
            match operation.deed {
                Deed::Write(written) => todo.push((done | 1 << at, written)),
                Deed::Read(found) if found == value => todo.push((done | 1 << at, value)),
                Deed::Read(_) => {}
            }
        }
    }
    let mut history = history.to_vec();
    history.sort_by_key(|it| it.began);
    Err(history.iter().fold(String::from("no order explains"), |text, it| {
        format!("{text}\n  {:?} from {} to {:?}", it.deed, it.began, it.ended)
    }))
}

#[test]
fn tells_histories_with_an_order_from_those_without() {
    use Deed::{Read, Write};
    let history = |rows: &[(Deed, u128, Option<u128>)]| -> Vec<Operation> {
        let rows = rows.iter().cloned();
        rows.map(|(deed, began, ended)| Operation { deed, began, ended }).collect()
    };
    let good = [
        history(&[(Write(1), 0, Some(1)), (Read(1), 2, Some(3))]),
        // Concurrent: either is fine.
        history(&[(Write(1), 0, Some(9)), (Read(0), 1, Some(2)), (Read(1), 3, Some(4))]),
        // Of unknown outcome: late, or never.
        history(&[(Write(1), 0, None), (Write(2), 2, Some(3)), (Read(1), 8, Some(9))]),
        history(&[(Write(1), 0, None), (Write(2), 2, Some(3)), (Read(2), 8, Some(9))]),
    ];
    for history in good {
        check(&history).unwrap();
    }
    let bad = [
        // Lost.
        history(&[(Write(1), 0, Some(1)), (Read(0), 2, Some(3))]),
        // Back and forth.
        history(&[(Write(1), 0, Some(9)), (Read(1), 1, Some(2)), (Read(0), 3, Some(4))]),
        // Done twice.
        history(&[
            (Write(1), 0, None),
            (Read(1), 1, Some(2)),
            (Write(2), 3, Some(4)),
            (Read(2), 5, Some(6)),
            (Read(1), 7, Some(8)),
        ]),
        // From nowhere.
        history(&[(Read(7), 0, Some(1))]),
    ];
    for history in bad {
        check(&history).unwrap_err();
    }
}
