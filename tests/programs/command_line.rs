//! Flags: the help lists them, and what cannot be used is refused with its name.

use super::kit::run;

#[tokio::test]
async fn help_lists_every_flag() {
    let flags: &[(&str, &[&str])] = &[
        ("watch", &["<URL>", "<SERVICE>", "--tag <", "--json"]),
        (
            "register",
            &[
                "<URL>",
                "<SERVICE>",
                "<ADDRESS>",
                "--id <",
                "--weight <",
                "--tag <",
                "--meta <K=V>",
                "--ttl <",
                "--http-check <",
                "--json",
            ],
        ),
        (
            "serve",
            &[
                "--listen <ADDR>",
                "--delay <",
                "--fail <",
                "--register <URL> <SERVICE>",
            ],
        ),
        (
            "call",
            &[
                "<URL>",
                "<SERVICE>",
                "--rate <",
                "--concurrency <",
                "--duration <",
                "--policy <",
                "--key <",
                "--retry",
                "--no-retry",
                "--hedge",
                "--no-hedge",
                "--breaker",
                "--no-breaker",
                "--try-timeout <",
                "--json",
            ],
        ),
        ("demo", &["--registry <URL>", "--json"]),
        ("policy", &["a policy of one's own"]),
        (
            "registry",
            &[
                "--listen <ADDR>",
                "--state <FILE>",
                "--json",
                "--host <",
                "--check-network <",
                "--connections <",
                "--connections-per-address <",
                "--write-within <",
                "--bodies <",
                "--instances <",
                "--bytes <",
                "--tags <",
                "--least-check-interval <",
                "--longest-check-timeout <",
                "--checks-at-once <",
                "--checks-per-sec <",
                "--save-pause <",
            ],
        ),
    ];
    for (program, flags) in flags {
        let help = run(program, &["--help"]).await;
        assert_eq!(help.code, Some(0), "{help:?}");
        for flag in *flags {
            assert!(
                help.stdout.contains(flag),
                "{program} {flag}: {}",
                help.stdout
            );
        }
    }
}

#[tokio::test]
async fn bad_arguments_are_refused_by_name() {
    const CONSUL: &str = "consul://127.0.0.1:1";
    let register = |rest: &'static [&'static str]| [&["register", CONSUL, "s"], rest].concat();
    let cases: &[(Vec<&str>, &[&str])] = &[
        (vec!["watch", "nonsense", "s"], &["nonsense", "scheme"]),
        (
            vec!["watch", "zookeeper://x", "s"],
            &["zookeeper", "consul", "memory", "rest", "fixed"],
        ),
        (vec!["call", "memory:", "s"], &["memory:", "one process"]),
        (vec!["watch", "consul://127.0.0.1:70000", "s"], &["70000"]),
        (
            vec!["watch", "consul://127.0.0.1:1?colour=red", "s"],
            &["colour"],
        ),
        (vec!["watch", CONSUL, ""], &["service"]),
        (vec!["watch", CONSUL, "s", "--colour"], &["--colour"]),
        (register(&["127.0.0.1:70000"]), &["<ADDRESS>", "70000"]),
        (register(&["127.0.0.1"]), &["<ADDRESS>", "port"]),
        (register(&["127.0.0.1:0"]), &["<ADDRESS>"]),
        (register(&["127.0.0.1:80", "--weight", "0"]), &["--weight"]),
        (register(&["127.0.0.1:80", "--weight", "-1"]), &["--weight"]),
        (
            register(&["127.0.0.1:80", "--weight", "70000"]),
            &["--weight"],
        ),
        (register(&["127.0.0.1:80", "--ttl", "soon"]), &["--ttl"]),
        (register(&["127.0.0.1:80", "--ttl", "0s"]), &["--ttl"]),
        (
            register(&["127.0.0.1:80", "--meta", "novalue"]),
            &["--meta"],
        ),
        (
            register(&["127.0.0.1:80", "--http-check", "health"]),
            &["--http-check"],
        ),
        (
            register(&["127.0.0.1:80", "--http-check", "/", "--ttl", "3s"]),
            &["--http-check", "--ttl"],
        ),
        (
            vec!["register", "fixed:127.0.0.1:1", "s", "127.0.0.1:80"],
            &["fixed"],
        ),
        (vec!["serve"], &["--listen"]),
        (vec!["serve", "--listen", "here"], &["--listen"]),
        (
            vec!["serve", "--listen", "127.0.0.1:0", "--fail", "1.5"],
            &["--fail"],
        ),
        (
            vec!["serve", "--listen", "127.0.0.1:0", "--fail", "-1"],
            &["--fail"],
        ),
        (
            vec!["serve", "--listen", "127.0.0.1:0", "--delay", "long"],
            &["--delay"],
        ),
        (
            vec!["serve", "--listen", "127.0.0.1:0", "--register", CONSUL],
            &["--register"],
        ),
        (
            vec![
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--register",
                "nonsense",
                "s",
            ],
            &["nonsense"],
        ),
        (vec!["registry"], &["--listen"]),
        (vec!["registry", "--listen", "here"], &["--listen"]),
        (vec!["call", "nonsense", "s"], &["nonsense"]),
        (
            vec!["call", CONSUL, "s", "--concurrency", "0"],
            &["--concurrency"],
        ),
        (vec!["call", CONSUL, "s", "--rate", "fast"], &["--rate"]),
        (
            vec!["call", CONSUL, "s", "--duration", "10"],
            &["--duration"],
        ),
        (vec!["demo", "--registry", "nonsense"], &["nonsense"]),
        (vec!["demo", "--registry", "memory:"], &["memory:"]),
    ];
    for (args, words) in cases {
        let end = run(args[0], &args[1..]).await;
        assert_eq!(end.code, Some(2), "{args:?}: {end:?}");
        assert_eq!(end.stdout, "", "{args:?}");
        let line = end.stderr.lines().next().unwrap_or_default();
        assert!(line.starts_with("error: "), "{args:?}: {end:?}");
        // clap lists missing arguments below its first line.
        for word in *words {
            assert!(
                end.stderr.contains(word),
                "{args:?} must name {word}: {end:?}"
            );
        }
    }
}
