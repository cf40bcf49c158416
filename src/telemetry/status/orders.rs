//! Orders of operators.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::timeout;

use super::{
    answer::{self, StatusFailure},
    body::StatusBody,
    shared::StatusShared,
};
use crate::{
    balance::{BalanceGone, topology::Shares},
    error::BoxError,
    instance::{Key, Weight},
};

/// The largest body. The shares of a hundred versions have 5 KB.
const MAX_BODY: usize = 16 << 10;

/// The time limit for reading a body.
const BODY_WITHIN: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct OrderBody {
    service: String,
    #[serde(flatten)]
    order: Order,
}

#[derive(Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
enum Order {
    Eject(Whom),
    Restore(Whom),
    Weight {
        #[serde(flatten)]
        whom: Whom,
        /// `null` is the weight of the registry. It must be there: leaving it out is a mistake.
        #[serde(deserialize_with = "present")]
        weight: Option<u16>,
    },
    Split {
        shares: Vec<VersionShare>,
        #[serde(default)]
        rest: f64,
    },
}

#[derive(Deserialize)]
struct Whom {
    id: String,
    #[serde(default)]
    scope: String,
}

#[derive(Deserialize)]
struct VersionShare {
    version: String,
    share: f64,
}

#[derive(Serialize)]
struct Done {
    done: bool,
}

fn present<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u16>, D::Error> {
    Option::deserialize(input)
}

/// Reads an order, and carries it out.
pub(super) async fn obey<B>(
    shared: &StatusShared,
    body: B,
) -> Result<Response<StatusBody>, StatusFailure>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let OrderBody { service, order } = read(body).await?;
    let watched = shared.services.iter().find(|it| *it.name == *service);
    let watched = watched.ok_or_else(|| {
        StatusFailure::new(StatusCode::NOT_FOUND, "this page has no such service")
    })?;
    let balance = &watched.handles.balance;
    let key = |whom: Whom| Key::new(whom.id, whom.scope);
    let found = match order {
        Order::Eject(whom) => balance.eject(&key(whom)).await,
        Order::Restore(whom) => balance.restore(&key(whom)).await,
        Order::Weight { whom, weight } => {
            let weight = weight.map(Weight::from);
            balance.set_weight(&key(whom), weight).await
        }
        Order::Split { shares, rest } => {
            let split = balance.split().ok_or_else(|| {
                StatusFailure::new(StatusCode::CONFLICT, "this service splits no traffic")
            })?;
            let named = shares.into_iter();
            let set = named.fold(Shares::new(), |set, it| set.version(it.version, it.share));
            split
                .set(set.rest(rest))
                .map_err(|error| StatusFailure::bad(error.to_string()))?;
            Ok(true)
        }
    };
    match found {
        Ok(true) => {
            shared.outdate();
            Ok(answer::json(&Done { done: true }))
        }
        Ok(false) => Err(StatusFailure::new(
            StatusCode::NOT_FOUND,
            "there is no endpoint with this id and scope",
        )),
        Err(gone @ BalanceGone { .. }) => {
            Err(StatusFailure::new(StatusCode::GONE, gone.to_string()))
        }
    }
}

async fn read<B>(body: B) -> Result<OrderBody, StatusFailure>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let limited = Limited::new(body, MAX_BODY);
    let read = timeout(BODY_WITHIN, limited.collect()).await;
    let read = read.map_err(|_| {
        let message = format!("the body took longer than {BODY_WITHIN:?}");
        StatusFailure::new(StatusCode::REQUEST_TIMEOUT, message)
    })?;
    let whole: Bytes = read
        .map_err(|_| {
            let message = format!("the body is larger than {MAX_BODY} bytes, or broke off");
            StatusFailure::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        })?
        .to_bytes();
    serde_json::from_slice(&whole)
        .map_err(|error| StatusFailure::bad(format!("the body is not an order: {error}")))
}
