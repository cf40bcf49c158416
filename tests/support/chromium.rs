//! A real browser, driven over the WebDriver protocol.

use std::{fs, path::PathBuf, time::Duration};

use fantoccini::{Client, ClientBuilder};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{eventually, http1, ports::Port, process::Process};

/// The driver, where both it and the browser are on PATH. `tests/run.sh` does not get them: with their
/// libraries they are several hundred megabytes.
pub fn binary() -> Option<PathBuf> {
    super::binary("CHROMIUM_BIN", "chromium", "chromium/usr/bin")?;
    super::binary("CHROMEDRIVER_BIN", "chromedriver", "chromium/usr/bin")
}

/// A browser of its own, without a window. Ends when dropped.
pub struct Browser {
    pub page: Client,
    driver: Process,
    profile: String,
    _port: Port,
    _dir: tempfile::TempDir,
}

/// The browser is a child of the driver, and outlives it when that is killed.
impl Drop for Browser {
    fn drop(&mut self) {
        self.driver.kill();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            // The folder is this browser's own.
            let is_ours = command
                .split(|byte| *byte == 0)
                .any(|word| word == self.profile.as_bytes());
            let pid = process
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|_| is_ours) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

impl Browser {
    pub async fn start(driver: PathBuf, width: u32, height: u32) -> Browser {
        let dir = tempfile::tempdir().unwrap();
        let port = Port::lease();
        let listen = format!("--port={}", port.get());
        let log = dir.path().join("driver.log");
        let process = Process::spawn(&driver, &[&listen], dir.path(), &log).unwrap();
        let addr = ([127, 0, 0, 1], port.get()).into();
        eventually(Duration::from_secs(20), "the driver answers", || async {
            let within = Duration::from_secs(2);
            let reply = http1::send(addr, "GET", "/status", &[], b"", within).await;
            reply.is_ok_and(|reply| reply.status == 200)
        })
        .await;
        let browser = super::binary("CHROMIUM_BIN", "chromium", "chromium/usr/bin").unwrap();
        let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
        let size = format!("--window-size={width},{height}");
        // Nothing from elsewhere, and no sandbox: in containers root runs the tests.
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &profile,
            &size,
        ];
        let wanted = json!({
            "goog:chromeOptions": {"binary": browser, "args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let page = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(wanted.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{}", port.get()))
            .await
            .unwrap_or_else(|error| {
                panic!("{error}: {}", fs::read_to_string(&log).unwrap_or_default())
            });
        Browser {
            page,
            driver: process,
            profile,
            _port: port,
            _dir: dir,
        }
    }

    /// Runs a script in the page and returns its result.
    pub async fn run(&self, script: &str) -> serde_json::Value {
        self.page.execute(script, Vec::new()).await.unwrap()
    }

    /// Runs a script until it returns true.
    pub async fn sees(&self, what: &str, script: &str) {
        eventually(Duration::from_secs(15), what, || async {
            let seen = self.run(script).await;
            (seen == true).then_some(()).ok_or(seen)
        })
        .await;
    }
}
