//! The page in a real browser.

use std::time::Duration;

use fantoccini::Locator;

use crate::{
    kit::{Rig, SCRIPT, SERVICE, TOKEN, settings},
    support::{chromium::Browser, eventually, need},
};

/// The text of a cell of an endpoint.
fn cell(id: &str, column: &str) -> String {
    format!(
        "[...document.querySelectorAll('tr.row')].find(r => r.querySelector('.open span').textContent === '{id}')\
         ?.querySelector('[data-col={column}]').textContent"
    )
}

#[tokio::test]
async fn the_page_shows_what_the_handle_says() {
    let driver = need!(chromium);
    let rig = Rig::start(settings()).await;
    rig.call(90).await;
    let browser = Browser::start(driver, 1280, 900).await;
    browser.page.goto(&rig.page.url()).await.unwrap();
    browser
        .sees(
            "three endpoints",
            "return document.querySelectorAll('tr.row').length === 3",
        )
        .await;
    assert_eq!(
        browser
            .run("return document.querySelector('h1').textContent")
            .await,
        SERVICE
    );
    for info in rig.endpoints().await {
        let id = info.key.id();
        for (column, shown) in [
            ("requests", info.requests.to_string()),
            ("failures", info.failures.to_string()),
            ("weight", info.weight.to_string()),
            ("in_flight", info.in_flight.to_string()),
            ("share", format!("{:.1} %", 100.0 * info.share)),
            ("state", "active".to_owned()),
        ] {
            let script = format!("return {}", cell(id, column));
            assert_eq!(browser.run(&script).await, shown, "{column} of {id}");
        }
    }
    // It goes on by itself.
    rig.call(30).await;
    for info in rig.endpoints().await {
        let script = format!(
            "return {} === '{}'",
            cell(info.key.id(), "requests"),
            info.requests
        );
        browser.sees("the new number of requests", &script).await;
    }
    browser
        .sees(
            "live",
            "return document.querySelector('#live').textContent.includes('live')",
        )
        .await;
}

#[tokio::test]
async fn a_script_in_metadata_does_not_run() {
    let driver = need!(chromium);
    let rig = Rig::start(settings()).await;
    let browser = Browser::start(driver, 1280, 900).await;
    browser.page.goto(&rig.page.url()).await.unwrap();
    browser
        .sees(
            "three endpoints",
            "return document.querySelectorAll('tr.row').length === 3",
        )
        .await;
    browser
        .run("document.querySelectorAll('.open').forEach(b => b.click())")
        .await;
    let script = format!(
        "return [...document.querySelectorAll('.more dd')].filter(d => d.textContent === {}).length === 3",
        serde_json::json!(SCRIPT)
    );
    browser.sees("the metadata as text", &script).await;
    assert_eq!(
        browser.run("return window.hacked === undefined").await,
        true
    );
    assert_eq!(
        browser
            .run("return document.querySelectorAll('img').length")
            .await,
        0
    );
    // And where markup did get in, the policy of the page would stop it.
    let inline = "const s = document.createElement('script'); s.append('window.hacked = 1'); \
                  try { document.body.append(s); } catch {} return window.hacked === undefined";
    assert_eq!(browser.run(inline).await, true);
    let markup = "try { document.body.innerHTML = '<p>'; return false; } catch { return true; }";
    assert_eq!(browser.run(markup).await, true, "trusted types");
}

#[tokio::test]
async fn orders_are_given_by_buttons_once_unlocked() {
    let driver = need!(chromium);
    let rig = Rig::start(settings().orders(TOKEN)).await;
    let browser = Browser::start(driver, 1280, 900).await;
    let page = &browser.page;
    page.goto(&rig.page.url()).await.unwrap();
    browser
        .sees(
            "three endpoints",
            "return document.querySelectorAll('tr.row').length === 3",
        )
        .await;
    let click = |css: &'static str| async move {
        let element = page.wait().for_element(Locator::Css(css)).await.unwrap();
        element.click().await.unwrap();
    };
    let unlock = |token: &'static str| async move {
        click("#unlock").await;
        let input = page.find(Locator::Css("#token")).await.unwrap();
        input.send_keys(token).await.unwrap();
        click("#ask-form .primary").await;
    };
    click(".open").await;
    assert_eq!(
        browser
            .run("return document.querySelectorAll('[data-order]').length")
            .await,
        0
    );
    unlock("wrong-token-wrong").await;
    click("[data-order=eject]").await;
    browser
        .sees(
            "a refusal",
            "return document.querySelector('#toast').textContent.includes('token')",
        )
        .await;
    assert!(rig.endpoints().await[0].cause.is_none());

    unlock(TOKEN).await;
    click("[data-order=eject]").await;
    eventually(Duration::from_secs(10), "user-1 is ejected", || async {
        rig.endpoints().await[0].cause.is_some()
    })
    .await;
    let script = format!("return {}.startsWith('ejected')", cell("user-1", "state"));
    browser.sees("its state", &script).await;
    click("[data-order=restore]").await;
    eventually(Duration::from_secs(10), "user-1 is restored", || async {
        rig.endpoints().await[0].cause.is_none()
    })
    .await;
    let weight = page
        .find(Locator::Css(".more .orders input"))
        .await
        .unwrap();
    weight.clear().await.unwrap();
    weight.send_keys("7").await.unwrap();
    click("[data-order=weight]").await;
    eventually(Duration::from_secs(10), "user-1 weighs 7", || async {
        rig.endpoints().await[0].weight.get() == 7
    })
    .await;
    let share = page.find(Locator::Css(".versions input")).await.unwrap();
    share.clear().await.unwrap();
    share.send_keys("25").await.unwrap();
    let rest = page
        .find_all(Locator::Css(".versions input"))
        .await
        .unwrap();
    rest[1].clear().await.unwrap();
    rest[1].send_keys("75").await.unwrap();
    click("#split .primary").await;
    eventually(Duration::from_secs(10), "v2 gets a quarter", || async {
        let split = rig.handles.balance.split().unwrap();
        split.shares().share("v2") == 0.25
    })
    .await;
    assert_eq!(
        browser.run("return location.href.includes('token')").await,
        false
    );
}

#[tokio::test]
async fn it_is_used_by_keyboard_and_filters_and_sorts() {
    let driver = need!(chromium);
    let rig = Rig::start(settings()).await;
    rig.call(9).await;
    let browser = Browser::start(driver, 1280, 900).await;
    let page = &browser.page;
    page.goto(&rig.page.url()).await.unwrap();
    browser
        .sees(
            "three endpoints",
            "return document.querySelectorAll('tr.row').length === 3",
        )
        .await;
    let body = page.find(Locator::Css("body")).await.unwrap();
    body.send_keys("/").await.unwrap();
    let filter = page.active_element().await.unwrap();
    assert_eq!(filter.attr("id").await.unwrap().as_deref(), Some("filter"));
    filter.send_keys("user-2").await.unwrap();
    browser
        .sees(
            "one endpoint",
            "return document.querySelectorAll('tr.row').length === 1",
        )
        .await;
    filter.clear().await.unwrap();
    browser
        .run("document.querySelector('#filter').dispatchEvent(new Event('input'))")
        .await;
    browser
        .sees(
            "all again",
            "return document.querySelectorAll('tr.row').length === 3",
        )
        .await;
    browser
        .run("document.querySelector('th[data-sort=id] button').focus()")
        .await;
    let header = page.active_element().await.unwrap();
    header.send_keys("\u{e007}").await.unwrap();
    browser
        .sees(
            "sorted the other way",
            "return document.querySelector('th[data-sort=id]').getAttribute('aria-sort') === 'descending' && \
             document.querySelector('tr.row .open span').textContent === 'user-3'",
        )
        .await;
    browser.run("document.querySelector('.open').focus()").await;
    let row = page.active_element().await.unwrap();
    row.send_keys("\u{e007}").await.unwrap();
    browser
        .sees(
            "its details",
            "return !document.querySelector('tr.more').hidden",
        )
        .await;
    // Updates do not take the focus away.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(
        browser.run("return document.activeElement.className").await,
        "open"
    );
    // Every control has a name for screen readers, and no text is too faint.
    let nameless = browser
        .run(
            "return [...document.querySelectorAll('button, input, select, canvas, svg[role=img], th')].filter(e => \
             e.getClientRects().length && !(e.textContent.trim() || e.getAttribute('aria-label') || \
             e.labels && e.labels.length)).map(e => e.outerHTML.slice(0, 80))",
        )
        .await;
    assert_eq!(nameless, serde_json::json!([]));
    let faint = browser.run(CONTRAST).await;
    assert_eq!(faint, serde_json::json!([]), "at least 4.5 to 1");
}

/// The texts on the page whose contrast is below 4.5 to 1, or 3 to 1 for large ones (WCAG AA).
const CONTRAST: &str = r"
const parts = c => (c.match(/[\d.]+/g) || []).map(Number);
const light = c => { const [r, g, b] = parts(c).map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor, p = parts(c); if (c.startsWith('rgb') && (p.length < 4 || p[3] === 1)) return c; } return 'rgb(255,255,255)'; };
const found = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.getClientRects().length || e.closest('.sr, .skip, #toast, :disabled')) continue;
  const style = getComputedStyle(e), [a, b] = [light(style.color), light(behind(e))].sort((x, y) => y - x);
  const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && +style.fontWeight >= 700;
  if ((a + .05) / (b + .05) < (large ? 3 : 4.5)) found.push(`${e.tagName} ${e.className} ${e.textContent.slice(0, 30)} ${((a + .05) / (b + .05)).toFixed(2)}`);
}
return found;";

#[tokio::test]
async fn a_page_whose_stream_is_refused_polls() {
    let driver = need!(chromium);
    let rig = Rig::start(settings().streams(1)).await;
    let held = rig.page.open("/events").await;
    let browser = Browser::start(driver, 390, 844).await;
    browser.page.goto(&rig.page.url()).await.unwrap();
    browser
        .sees(
            "it polls",
            "return document.querySelector('#live').textContent.includes('polling') && \
             document.querySelectorAll('tr.row').length === 3",
        )
        .await;
    assert_eq!(
        browser
            .run("return document.documentElement.scrollWidth <= innerWidth")
            .await,
        true,
        "nothing is wider than a phone"
    );
    drop(held);
}

/// After `cargo build --all-features --example demo`, this makes the picture of the README:
/// `cargo test --all-features --test status -- --ignored the_picture`.
#[tokio::test]
#[ignore = "writes examples/status.png"]
async fn the_picture_of_the_readme() {
    let driver = need!(chromium);
    let examples = std::env::current_exe().unwrap();
    let examples = examples.parent().unwrap().parent().unwrap();
    let (dir, port) = (
        tempfile::tempdir().unwrap(),
        crate::support::ports::Port::lease(),
    );
    let address = format!("127.0.0.1:{}", port.get());
    let args = ["--rate", "400", "--status", &*address];
    let demo = examples.join("examples/demo");
    let log = dir.path().join("log");
    let demo = crate::support::process::Process::spawn(&demo, &args, dir.path(), &log).unwrap();
    let browser = Browser::start(driver, 1280, 1040).await;
    eventually(Duration::from_secs(10), "the page", || async {
        browser.page.goto(&format!("http://{address}/")).await
    })
    .await;
    browser
        .sees(
            "five endpoints",
            "return document.querySelectorAll('tr.row').length === 5",
        )
        .await;
    // Late in its story, when one server is gone and another one slow.
    tokio::time::sleep(Duration::from_millis(16_500)).await;
    let picture = browser.page.screenshot().await.unwrap();
    drop(demo);
    assert!(picture.len() < 200_000, "{} bytes", picture.len());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/status.png");
    std::fs::write(path, picture).unwrap();
}
