use super::*;

fn vars(pairs: &'static [(&str, &str)]) -> Result<ConsulConfig, ConfigError> {
    ConsulConfig::from_vars(|name| {
        let found = pairs.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn the_environment_means_what_it_means_to_the_command() {
    let config = vars(&[
        ("CONSUL_HTTP_ADDR", "agent.internal:8600"),
        ("CONSUL_HTTP_TOKEN", "hush"),
        ("CONSUL_HTTP_AUTH", "user:hush"),
        ("CONSUL_NAMESPACE", "team"),
    ])
    .unwrap();
    assert_eq!(config.addresses, ["http://agent.internal:8600"]);
    assert_eq!(config.token, TokenSource::Literal("hush".into()));
    assert_eq!(config.options.namespace.as_deref(), Some("team"));
    assert!(
        !format!("{config:?}").contains("hush"),
        "Debug must hide secrets"
    );

    let config = vars(&[
        ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock"),
        ("CONSUL_HTTP_TOKEN", "hush"),
        ("CONSUL_HTTP_TOKEN_FILE", "/run/token"),
    ])
    .unwrap();
    assert_eq!(config.addresses, ["unix:///run/consul.sock"]);
    assert_eq!(
        config.token,
        TokenSource::File("/run/token".into()),
        "the file goes first"
    );

    let error = vars(&[("CONSUL_HTTP_SSL", "maybe")]).unwrap_err();
    assert_eq!(error.field(), "CONSUL_HTTP_SSL");
    let error = vars(&[("CONSUL_HTTP_ADDR", "ftp://x")]).unwrap_err();
    assert_eq!(error.field(), "CONSUL_HTTP_ADDR");
}

#[cfg(all(unix, feature = "tls"))]
#[test]
fn a_socket_speaks_tls_if_the_environment_asks_for_it() {
    let config = vars(&[
        ("CONSUL_HTTP_ADDR", "unix:///x.sock"),
        ("CONSUL_HTTP_SSL", "true"),
    ]);
    let config = config.unwrap();
    assert_eq!(config.addresses, ["unix+https:///x.sock"]);
    assert!(config.agents().unwrap()[0].secure);
}

#[cfg(not(feature = "tls"))]
#[test]
fn tls_that_is_not_compiled_in_is_an_error() {
    for address in ["unix:///x.sock", "h:1", "http://h:1"] {
        let error = ConsulConfig::from_vars(|name| match name {
            "CONSUL_HTTP_ADDR" => Some(address.to_owned()),
            "CONSUL_HTTP_SSL" => Some("true".to_owned()),
            _ => None,
        });
        assert!(error.unwrap_err().to_string().contains("feature `tls`"));
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf_8_is_refused_and_never_taken_as_absent() {
    use std::os::unix::ffi::OsStringExt;

    for variable in [
        "CONSUL_HTTP_ADDR",
        "CONSUL_HTTP_TOKEN",
        "CONSUL_HTTP_TOKEN_FILE",
        "CONSUL_HTTP_AUTH",
        "CONSUL_HTTP_SSL",
        "CONSUL_HTTP_SSL_VERIFY",
        "CONSUL_CACERT",
        "CONSUL_CAPATH",
        "CONSUL_CLIENT_CERT",
        "CONSUL_CLIENT_KEY",
        "CONSUL_TLS_SERVER_NAME",
        "CONSUL_NAMESPACE",
        "CONSUL_PARTITION",
    ] {
        let var = |name: &str| (name == variable).then(|| OsString::from_vec(b"hush\xff".to_vec()));
        let error = ConsulConfig::from_vars(var).unwrap_err();
        assert_eq!(error.field(), variable);
        assert!(!error.to_string().contains("hush"), "{error}");
        let url = ConsulConfig::from_url_and_vars("consul:", var).unwrap_err();
        assert_eq!(url.field(), variable, "from a URL");
    }
}

#[test]
fn certificates_without_tls_are_refused() {
    for (variable, field) in [
        ("CONSUL_CACERT", "consul.ca_file"),
        ("CONSUL_CAPATH", "consul.ca_path"),
        ("CONSUL_CLIENT_CERT", "consul.client_cert"),
        ("CONSUL_CLIENT_KEY", "consul.client_key"),
        ("CONSUL_TLS_SERVER_NAME", "consul.tls_server_name"),
    ] {
        let one = ConsulConfig::from_vars(|name| (name == variable).then(|| "x".to_owned()));
        let error = super::super::Consul::new(one.unwrap()).unwrap_err();
        assert_eq!(error.field(), field);
        assert!(error.to_string().contains(variable), "{error}");
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn unverified_tls_is_one_warning_and_none_without_tls() {
    use std::{
        io::{Result, Write},
        sync::{Arc, Mutex},
    };

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    // With one dispatcher in the process, tracing would ask only the thread that comes to an
    // event first whether anyone wants it. That may be the thread of another test.
    let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    for (ssl, warnings) in [("true", 1), ("false", 0)] {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
        let _guard = tracing::subscriber::set_default(subscriber.finish());
        let config = ConsulConfig::from_vars(|name| match name {
            "CONSUL_HTTP_SSL" => Some(ssl),
            "CONSUL_HTTP_SSL_VERIFY" => Some("false"),
            _ => None,
        });
        super::super::Consul::new(config.unwrap()).unwrap();
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("anyone can pose").count(), warnings, "{text}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn tls_is_chosen_by_a_variable() {
    let config = vars(&[("CONSUL_HTTP_SSL", "true")]).unwrap();
    assert_eq!(config.addresses, ["https://127.0.0.1:8500"]);
    let files = ConsulConfig::from_vars(|name| match name {
        "CONSUL_HTTP_SSL" => Some("1".to_owned()),
        "CONSUL_HTTP_SSL_VERIFY" => Some("false".to_owned()),
        "CONSUL_HTTP_ADDR" | "CONSUL_HTTP_TOKEN" | "CONSUL_HTTP_TOKEN_FILE" => None,
        name => Some(name.to_lowercase()),
    });
    let path = |name: &str| Some(name.into());
    let expected = TlsFiles {
        ca_file: path("consul_cacert"),
        ca_path: path("consul_capath"),
        cert: path("consul_client_cert"),
        key: path("consul_client_key"),
        server_name: Some("consul_tls_server_name".to_owned()),
        unverified: true,
    };
    assert_eq!(files.unwrap().tls, expected);
}
