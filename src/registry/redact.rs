//! Removes secrets from URLs for messages.

/// Returns a URL or an address without the parts that may contain secrets: user, password, query and
/// fragment.
pub(super) fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let Some(at) = url.rfind('@') else {
        return url[..end].to_owned();
    };
    let start = match (url.find("//"), url.find(':')) {
        (Some(start), _) if start < at => start + 2,
        (_, Some(colon)) if colon < at => colon + 1,
        _ => 0,
    };
    // A password may contain `?` and `#` too. So after one of them, a password cannot be told from a
    // host.
    let host = url.get(at..end).unwrap_or_default();
    format!("{}…{host}", &url[..start.min(end)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_shown() {
        for (url, text) in [
            ("rest://h:1", "rest://h:1"),
            ("rest://h:1?token=secret", "rest://h:1"),
            ("rest://user:secret@h:1/p?q#f", "rest://…@h:1/p"),
            ("rest://user:se?c#ret@h:1", "rest://…"),
            ("rest://h:1?token=a@b", "rest://…"),
            ("a?//b@c", "a…"),
            ("consul:secret@h:1", "consul:…@h:1"),
            ("user:secret@h:1", "user:…@h:1"),
            ("secret@//h:1", "…@//h:1"),
            ("//@", "//…@"),
            ("", ""),
        ] {
            assert_eq!(shown(url), text, "{url}");
        }
    }
}
