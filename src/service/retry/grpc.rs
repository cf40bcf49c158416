//! Which calls over gRPC may be carried out twice.

use std::{error::Error, fmt, sync::Arc};

use http::{Request, request::Parts};
use http_body::Body;

use super::{
    http::{HttpSpare, Replay, ShareReplay},
    reissue::{Hedgeable, Reissue},
    replay::ReplayBody,
};
use crate::{deadline::Deadline, error::ConfigError};

/// The calls over gRPC that may be carried out twice: by the names of services and methods, or by a predicate.
///
/// `helloworld.Greeter` stands for all methods of that service, `helloworld.Greeter/SayHello` for one of them.
/// A call is compared with each name, so a service with many methods is better given by its name.
#[derive(Clone)]
pub struct Repeatable(Rule);

#[derive(Clone)]
enum Rule {
    Names(Arc<[Box<str>]>),
    If(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
}

impl Repeatable {
    /// Those for which `repeatable` returns true. The path of a call is `/package.Service/Method`.
    pub fn when(repeatable: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self(Rule::If(Arc::new(repeatable)))
    }

    fn names<T: Into<Box<str>>>(names: impl IntoIterator<Item = T>) -> Self {
        let bare = |name: T| {
            let name: Box<str> = name.into();
            name.strip_prefix('/').map(Into::into).unwrap_or(name)
        };
        Self(Rule::Names(names.into_iter().map(bare).collect()))
    }

    /// Checks that each name could be one of a service or method.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let Rule::Names(names) = &self.0 else {
            return Ok(());
        };
        let is_word = |word: &str| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            !word.is_empty() && word.chars().all(is_part)
        };
        let is_name = |name: &str| match name.split_once('/') {
            Some((service, method)) => is_word(service) && is_word(method),
            None => is_word(name),
        };
        match names.iter().find(|name| !is_name(name)) {
            None => Ok(()),
            Some(name) => {
                let why = format!(
                    "{name:?} is neither a service such as helloworld.Greeter nor a method such as \
                     helloworld.Greeter/SayHello"
                );
                Err(ConfigError::new("stack.repeatable", why))
            }
        }
    }

    #[inline]
    fn includes(&self, head: &Parts) -> bool {
        match &self.0 {
            Rule::Names(names) => {
                let path = head.uri.path();
                let call = path.strip_prefix('/').unwrap_or(path);
                names.iter().any(|name| is_of(call, name))
            }
            Rule::If(repeatable) => repeatable(head),
        }
    }
}

/// Whether `Service/Method` is that method, or a method of that service.
fn is_of(call: &str, name: &str) -> bool {
    let rest = call.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl From<&str> for Repeatable {
    fn from(name: &str) -> Self {
        Self::names([name])
    }
}

impl From<String> for Repeatable {
    fn from(name: String) -> Self {
        Self::names([name])
    }
}

impl<const N: usize> From<[&str; N]> for Repeatable {
    fn from(names: [&str; N]) -> Self {
        Self::names(names)
    }
}

impl From<&[&str]> for Repeatable {
    fn from(names: &[&str]) -> Self {
        Self::names(names.iter().copied())
    }
}

impl From<Vec<String>> for Repeatable {
    fn from(names: Vec<String>) -> Self {
        Self::names(names)
    }
}

impl fmt::Debug for Repeatable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Names(names) => f.debug_set().entries(names.iter()).finish(),
            Rule::If(_) => f.write_str("a predicate"),
        }
    }
}

/// Retries calls over gRPC: those that are [`Repeatable`], and all that were certainly not processed, when their
/// error [returns them](Replay::reclaiming).
#[derive(Clone, Debug)]
pub struct GrpcReplay {
    replay: Replay,
    repeatable: Repeatable,
}

impl GrpcReplay {
    /// Retries these calls, with messages of up to 64 KiB.
    pub fn new(repeatable: impl Into<Repeatable>) -> Self {
        Self {
            replay: Replay::new().reclaiming(),
            repeatable: repeatable.into(),
        }
    }

    /// Sets how many bytes of the messages of a call are kept, as [`Replay::limit`].
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.replay = self.replay.limit(limit);
        self
    }
}

impl<B: Body + 'static> Reissue<Request<B>> for GrpcReplay {
    type Request = Request<ReplayBody<B>>;
    type Spare = HttpSpare<B>;

    #[inline]
    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        self.replay.deadline(request)
    }

    fn set_deadline(&self, request: &mut Request<B>, deadline: Deadline) {
        self.replay.set_deadline(request, deadline);
    }

    #[inline]
    fn prepare(&self, request: Request<B>) -> (Self::Request, Option<Self::Spare>) {
        let (head, body) = request.into_parts();
        let repeatable = self.repeatable.includes(&head);
        self.replay.prepare_as(repeatable, head, body)
    }

    fn is_idempotent(&self, spare: &Self::Spare) -> bool {
        Reissue::<Request<B>>::is_idempotent(&self.replay, spare)
    }

    fn is_whole(&self, spare: &Self::Spare) -> bool {
        Reissue::<Request<B>>::is_whole(&self.replay, spare)
    }

    fn supersede(&self, spare: &Self::Spare) {
        Reissue::<Request<B>>::supersede(&self.replay, spare);
    }

    fn reissue(&self, spare: &Self::Spare) -> Option<Self::Request> {
        Reissue::<Request<B>>::reissue(&self.replay, spare)
    }

    fn returns(&self, spare: &Self::Spare, error: &(dyn Error + 'static)) -> bool {
        Reissue::<Request<B>>::returns(&self.replay, spare, error)
    }

    fn reclaim(&self, spare: &Self::Spare, error: &(dyn Error + 'static)) -> Option<Self::Request> {
        Reissue::<Request<B>>::reclaim(&self.replay, spare, error)
    }
}

impl Hedgeable for GrpcReplay {
    type Hedge = ShareReplay;

    fn hedge(&self) -> ShareReplay {
        self.replay.hedge()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn includes(repeatable: &Repeatable, path: &str) -> bool {
        let request = Request::post(format!("http://greeter{path}")).body(());
        repeatable.includes(&request.expect("a valid request").into_parts().0)
    }

    #[test]
    fn a_name_stands_for_a_method_or_for_all_methods_of_a_service() {
        let repeatable = Repeatable::from(["a.Users", "/b.Orders/Get"]);
        for path in ["/a.Users/Get", "/a.Users/Delete", "/b.Orders/Get"] {
            assert!(includes(&repeatable, path), "{path}");
        }
        for path in [
            "/a.UsersAdmin/Get",
            "/b.Orders/GetAll",
            "/b.Orders/Put",
            "/b.Orders",
            "/a.User/Get",
            "/x/a.Users/Get",
            "/",
        ] {
            assert!(!includes(&repeatable, path), "{path}");
        }
        let all = Repeatable::when(|head| head.uri.path().ends_with("/Get"));
        assert!(includes(&all, "/x.Y/Get") && !includes(&all, "/x.Y/Put"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "/", "a b", "a.B/", "/a.B/C/D", "http://a.B/C", "a.B/*"] {
            let error = Repeatable::from(name).validate().expect_err(name);
            assert_eq!(error.field(), "stack.repeatable");
        }
        for name in ["a", "a.B", "a.b_c.D/E_f", "/a.B/C"] {
            Repeatable::from(name).validate().expect(name);
        }
    }
}
