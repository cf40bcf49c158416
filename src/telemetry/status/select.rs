//! Which endpoints a viewer wants to see, and in which order.

use std::cmp::Ordering;

use form_urlencoded::parse;

use super::{
    answer::StatusFailure,
    sample::{Row, state_name},
};

/// How many endpoints a response has, if the request does not say.
const LIMIT: usize = 50;

/// The most endpoints of a response: about 100 KB.
const MOST: usize = 200;

/// The longest text of a parameter.
const MAX_TEXT: usize = 500;

/// What a viewer wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Empty for the first.
    pub(super) service: String,
    pub(super) sort: SortBy,
    pub(super) descending: bool,
    /// In lower case.
    pub(super) filter: String,
    pub(super) state: Option<&'static str>,
    pub(super) offset: usize,
    pub(super) limit: usize,
}

/// The column to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortBy {
    Id,
    State,
    Weight,
    Share,
    Rate,
    Load,
    InFlight,
    Latency,
    Requests,
    Failures,
    Ejections,
    Age,
}

const COLUMNS: [(&str, SortBy); 12] = [
    ("id", SortBy::Id),
    ("state", SortBy::State),
    ("weight", SortBy::Weight),
    ("share", SortBy::Share),
    ("rate", SortBy::Rate),
    ("load", SortBy::Load),
    ("in_flight", SortBy::InFlight),
    ("latency", SortBy::Latency),
    ("requests", SortBy::Requests),
    ("failures", SortBy::Failures),
    ("ejections", SortBy::Ejections),
    ("age", SortBy::Age),
];

impl SortBy {
    pub(super) fn name(self) -> &'static str {
        let named = COLUMNS.iter().find(|(_, column)| *column == self);
        named.map_or("id", |(name, _)| name)
    }
}

impl Wanted {
    /// Parses a query. A parameter that is not known is refused, so that a token never goes unnoticed in a
    /// URL, where logs would keep it.
    pub(super) fn parse(query: &str) -> Result<Self, StatusFailure> {
        let mut wanted = Self {
            service: String::new(),
            sort: SortBy::Id,
            descending: false,
            filter: String::new(),
            state: None,
            offset: 0,
            limit: LIMIT,
        };
        for (name, value) in parse(query.as_bytes()) {
            let wrong = |must: &str| StatusFailure::bad(format!("{name} must be {must}"));
            if value.len() > MAX_TEXT {
                return Err(wrong(&format!("at most {MAX_TEXT} bytes long")));
            }
            match &*name {
                "service" => wanted.service = value.into_owned(),
                "filter" => wanted.filter = value.to_lowercase(),
                "sort" => {
                    let known = COLUMNS.iter().find(|(name, _)| *name == value);
                    wanted.sort = known.ok_or_else(|| wrong("a column of the table"))?.1;
                }
                "order" => {
                    wanted.descending = match &*value {
                        "asc" => false,
                        "desc" => true,
                        _ => return Err(wrong("asc or desc")),
                    }
                }
                "state" => {
                    let known = state_name(&value).ok_or_else(|| wrong("a state of endpoints"))?;
                    wanted.state = Some(known);
                }
                "offset" => {
                    wanted.offset = value.parse().map_err(|_| wrong("a number from 0"))?;
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|n| (1..=MOST).contains(n));
                    wanted.limit =
                        limit.ok_or_else(|| wrong(&format!("a number from 1 to {MOST}")))?;
                }
                _ => {
                    let message = "the query has a parameter that this page does not know";
                    return Err(StatusFailure::bad(message));
                }
            }
        }
        Ok(wanted)
    }

    /// The rows that are wanted, in order: how many match, the offset within them, and one page.
    pub(super) fn select<'a>(&self, rows: &'a [Row]) -> (usize, usize, Vec<&'a Row>) {
        let matches = |row: &&Row| {
            self.state.is_none_or(|state| row.state() == state) && row.contains(&self.filter)
        };
        let mut matching: Vec<&Row> = rows.iter().filter(matches).collect();
        // The rows come in the order of their keys. A stable sort keeps it among equals.
        let order = |a: &&Row, b: &&Row| {
            let order = self.compare(a, b);
            if self.descending {
                order.reverse()
            } else {
                order
            }
        };
        match self.sort {
            SortBy::Id if !self.descending => {}
            _ => matching.sort_by(order),
        }
        let total = matching.len();
        // Endpoints may have left since the viewer turned the page.
        let last = total.saturating_sub(1) / self.limit * self.limit;
        let offset = self.offset.min(last);
        let page = matching.into_iter().skip(offset).take(self.limit);
        (total, offset, page.collect())
    }

    fn compare(&self, a: &Row, b: &Row) -> Ordering {
        let number = |row: &Row| match self.sort {
            SortBy::Weight => row.info.effective_weight,
            SortBy::Share => row.info.share,
            SortBy::Rate => row.rate,
            SortBy::Load => row.info.load,
            SortBy::Latency => row.latency.map_or(-1.0, |latency| latency.p99_ms),
            _ => 0.0,
        };
        match self.sort {
            SortBy::Id => a.info.key.cmp(&b.info.key),
            SortBy::State => a.state().cmp(b.state()),
            SortBy::InFlight => a.info.in_flight.cmp(&b.info.in_flight),
            SortBy::Requests => a.info.requests.cmp(&b.info.requests),
            SortBy::Failures => a.info.failures.cmp(&b.info.failures),
            SortBy::Ejections => a.ejections.cmp(&b.ejections),
            SortBy::Age => a.info.age.cmp(&b.info.age),
            _ => number(a).total_cmp(&number(b)),
        }
    }
}
