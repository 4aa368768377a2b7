//! Several pools, of which some do not say what they do.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::pool::FilePool;
use lab::web;
use lab::{Host, Release};

use crate::stage::{Stage, phase};

const SOON: Duration = Duration::from_secs(30);

/// `www` has a status socket, `two` a status page on its own socket, `three` none.
pub fn three_pools(release: Release) -> Result<()> {
    let host = Host::boot(release, "three-pools")?;
    for (name, status) in [("two", "pm.status_path = /fpm-status\n"), ("three", "")] {
        let text = format!(
            "[{name}]\nuser = www-data\ngroup = www-data\nlisten = /run/php/{name}.sock\npm = ondemand\npm.max_children = 4\n{status}"
        );
        host.write(&format!("{}/pool.d/{name}.conf", release.fpm_etc()), text)?;
    }
    host.write("/srv/app/sleeper.php", "<?php\ntouch('/var/log/app/' . $_GET['id']);\nsleep(60);\necho 'woke';\n")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"4s\"")?;

    // Nobody is left of the one that says nothing, so that is proof enough.
    stage.converge("v1")?;
    let (began, ended) = phase(&stage.agent, "drain")?;
    ensure!(ended - began < 3.0, "an idle php-fpm was drained for {:.3} s", ended - began);
    ensure!(stage.agent.casualties()?.is_empty(), "{:?}", stage.agent.casualties()?);

    let mut clients = Vec::new();
    for (id, socket) in [("one", release.fpm_socket()), ("two", "/run/php/two.sock"), ("three", "/run/php/three.sock")] {
        host.write(&format!("/root/{id}.php"), CLIENT.replace("SOCKET", socket).replace("ID", id))?;
        clients.push((id, host.spawn(&["php", &format!("/root/{id}.php")])?));
        lab::wait_for("the request to have begun", SOON, || Ok(host.exists(&format!("/var/log/app/{id}")).then_some(())))?;
    }
    stage.deploy("v2")?;
    stage.agent.wait_status("the drain", SOON, |status| {
        let waits = status["waiting_for"].as_str().unwrap_or_default();
        waits.contains("2 requests in flight") && waits.contains("pool three has no status page")
    })?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0 && waited.stdout.contains("3 casualties"), "{waited:?}");
    for (id, client) in clients {
        let answered = client.wait(SOON)?;
        ensure!(!answered.stdout.contains("woke"), "{id}: {answered:?}");
    }
    let casualties = stage.agent.casualties()?;
    let named = |name: &str| casualties.iter().filter(|cut| cut["name"] == name).collect::<Vec<_>>();
    let known = named("/srv/app/sleeper.php");
    ensure!(casualties.len() == 3 && known.len() == 2 && known.iter().all(|cut| cut["certain"] == true), "{casualties:#?}");
    let unknown = named("(unknown request of pool three)");
    let unknown = unknown.first().with_context(|| format!("{casualties:#?}"))?;
    ensure!(unknown["certain"] == false && unknown["pid"] != 0 && unknown["perhaps"].is_null(), "{unknown}");
    let text = stage.agent.status_text()?;
    ensure!(text.contains("probably cut: request (unknown request of pool three)"), "{text}");
    stage.ensure_done("v2")
}

/// One request, and what came of it.
const CLIENT: &str = r#"<?php
function record(int $type, string $content): string { return pack('CCnnCC', 1, $type, 1, strlen($content), 0, 0) . $content; }
function param(string $name, string $value): string { return chr(strlen($name)) . chr(strlen($value)) . $name . $value; }
$params = '';
foreach (['SCRIPT_FILENAME' => '/srv/app/sleeper.php', 'SCRIPT_NAME' => '/sleeper.php', 'QUERY_STRING' => 'id=ID', 'REQUEST_METHOD' => 'GET'] as $name => $value) {
    $params .= param($name, $value);
}
$socket = stream_socket_client('unix://SOCKET', $code, $error, 10) or die($error);
fwrite($socket, record(1, pack('nCx5', 1, 0)) . record(4, $params) . record(4, '') . record(5, ''));
stream_set_timeout($socket, 300);
while (!feof($socket)) { echo fread($socket, 8192); }
"#;
