//! The URLs of two registries: `merge:URL|URL` and `failover:URL|URL|after=10s&back_after=30s`.

use super::{Failover, Merge};
use crate::{
    error::ConfigError,
    registry::{Registry, text::duration},
};

/// Makes two registries from a URL; `None` if it is the URL of one. No message quotes it, because each
/// half may have a password.
pub(in crate::registry) fn of_url(
    url: &str,
    connect: impl Fn(&str) -> Result<Registry, ConfigError>,
) -> Option<Result<Registry, ConfigError>> {
    let (scheme, rest) = url.split_once(':')?;
    let parts: Vec<_> = rest.split('|').collect();
    let halves = |first, second| Ok::<_, ConfigError>((connect(first)?, connect(second)?));
    let registry = match (scheme, &parts[..]) {
        ("merge", [first, second]) => {
            halves(first, second).and_then(|(first, second)| Merge::new(first, second).build())
        }
        ("failover", [first, second, settings @ ..]) if settings.len() < 2 => halves(first, second)
            .and_then(|(first, second)| {
                let failover = Failover::new(first, second);
                let settings = settings.iter().flat_map(|settings| settings.split('&'));
                settings.fold(Ok(failover), set)?.build()
            }),
        ("merge" | "failover", parts) => {
            let why = format!(
                "{scheme} takes two URLs with | between them, and failover its settings after \
                 another |; these are {} parts",
                parts.len()
            );
            Err(ConfigError::new("registry.url", why))
        }
        _ => return None,
    };
    Some(registry)
}

fn set(failover: Result<Failover, ConfigError>, setting: &str) -> Result<Failover, ConfigError> {
    let (name, time) = setting.split_once('=').unwrap_or((setting, ""));
    let time = |field: &str| {
        let why = || format!("{time:?} is no duration such as 500ms, 20s or 2m");
        duration(time).ok_or_else(|| ConfigError::new(field, why()))
    };
    match name {
        "after" => Ok(failover?.after(time("failover.after")?)),
        "back_after" => Ok(failover?.back_after(time("failover.back_after")?)),
        _ => {
            let why = "failover takes the settings after and back_after, and no others";
            Err(ConfigError::new("registry.url", why))
        }
    }
}
