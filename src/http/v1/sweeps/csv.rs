//! The combinations of a sweep as a table.

use serde_json::Value;

use super::SweepDetails;

/// What follows the settings in every row.
const COLUMNS: [&str; 10] = [
    "top1",
    "deviation",
    "n",
    "copies",
    "best",
    "cost_seconds",
    "dropped_after_epochs",
    "statuses",
    "jobs",
    "deleted_jobs",
];

/// A row for each combination, the best first: rank, number, a column for each axis, and the results.
pub(super) fn table(details: &SweepDetails) -> String {
    let axes: Vec<&str> =
        details.sweep.axes.as_array().into_iter().flatten().filter_map(|axis| axis["pointer"].as_str()).collect();
    let header = ["rank", "combination"].into_iter().chain(axes.iter().copied()).chain(COLUMNS);
    let mut text = row(header.map(str::to_owned));
    for result in &details.results {
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        let settings = axes.iter().map(|axis| match &result.settings[*axis] {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        });
        let own = [result.rank.map(|rank| rank.to_string()).unwrap_or_default(), result.number.to_string()];
        let of_jobs = |text: &dyn Fn(&crate::db::sweeps::MemberJob) -> String| {
            result.jobs.iter().map(text).collect::<Vec<_>>().join(" ")
        };
        // It was made with a job for each seed.
        let made = usize::try_from(details.sweep.seeds).unwrap_or_default();
        let results = [
            number(result.top1),
            number(result.deviation),
            result.n.to_string(),
            result.copies.to_string(),
            number(result.best),
            number(Some(result.cost_seconds)),
            result.dropped_after.map(|epochs| epochs.to_string()).unwrap_or_default(),
            of_jobs(&|job| job.status.name().to_owned()),
            of_jobs(&|job| job.id.clone()),
            made.saturating_sub(result.jobs.len()).to_string(),
        ];
        text += &row(own.into_iter().chain(settings).chain(results));
    }
    text
}

fn row(cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.map(|cell| quoted(&cell)).collect();
    cells.join(",") + "\r\n"
}

/// A cell as RFC 4180 has it. A text that a spreadsheet would take for a formula gets an apostrophe.
fn quoted(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
    let cell = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let cells = ["a", "[1,2]", "say \"x\"", "-1.5", "=SUM(A1)", ""].map(str::to_owned);
        assert_eq!(row(cells.into_iter()), "a,\"[1,2]\",\"say \"\"x\"\"\",-1.5,'=SUM(A1),\r\n");
    }
}
