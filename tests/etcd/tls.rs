//! Over TLS, with certificates for both sides.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use std::net::Ipv4Addr;

use super::{
    support::{Etcd, need_etcd},
    *,
};

#[tokio::test]
async fn a_cluster_with_tls_is_watched_by_whoever_has_its_certificates() {
    need_etcd!();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(path("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let ip = SanType::IpAddress(Ipv4Addr::LOCALHOST.into());
        params.subject_alt_names.push(ip);
        // etcd's gateway is a client of its own server.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &ca).unwrap();
        std::fs::write(path(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(path(&format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
    let etcd = Etcd::server()
        .secure(
            &path("server.pem"),
            &path("server-key.pem"),
            &path("ca.pem"),
        )
        .await;
    let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client-key.pem"));
    let place = format!("etcd+https://{}", etcd.addr());
    let registry = connect(&format!(
        "{place}?ca_file={ca}&cert_file={cert}&key_file={key}"
    ));
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    registration.deregister().await.unwrap();
    until(&mut watch, "the end", |v| v.instances.is_empty()).await;
    for url in [
        format!("{place}?ca_file={ca}"),
        format!("etcd://{}", etcd.addr()),
    ] {
        let mut watch = connect(&url).watch("web").unwrap();
        let view = until(&mut watch, "a refusal", |v| v.error.is_some()).await;
        assert!(view.instances.is_empty());
    }
}
