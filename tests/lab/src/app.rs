//! The application that php-fpm serves: `/work.php`, which takes as long as it is told and says who served it, and `/version.php`,
//! which stands for the deployed code.

use anyhow::Result;

use crate::Host;

/// One line `start ID` and one `end ID` for each request of `/work.php`, written while it runs.
pub const MARKERS: &str = "/var/log/app/markers.log";

/// Further lines of php.ini. Old code stays until the process is renewed.
pub(crate) const PHP_INI: &str = "opcache.enable = 1\nopcache.validate_timestamps = 0\n";

/// `/work.php?id=ID&ms=MS` lasts MS milliseconds and answers who served it with which code. With `&child=N` another program works
/// for most of that time, as ffmpeg would, and its N lines of output are part of the answer.
///
/// Signals cut usleep() short, so the clock decides. The end is marked before the answer is given: a request that
/// was answered always has both marks.
const WORK: &str = r#"<?php
const MARKERS = '/var/log/app/markers.log';
const SERVERS = ['8081' => 'mw1', '8082' => 'mw2'];
const LOOP = 'n=0; while [ "$n" -lt "$3" ]; do sleep "$2"; n=$((n + 1)); echo "$1 $n"; done';
$id = (string)($_GET['id'] ?? '');
$ms = (int)($_GET['ms'] ?? 0);
file_put_contents(MARKERS, "start $id\n", FILE_APPEND);
$end = hrtime(true) + 1000000 * $ms;
$version = require __DIR__ . '/version.php';
$child = null;
if (isset($_GET['child'])) {
    $lines = (int)$_GET['child'];
    $pause = sprintf('%.3F', 0.9 * $ms / 1000 / $lines);
    $process = proc_open(['sh', '-c', LOOP, 'sh', $id, $pause, (string)$lines], [['file', '/dev/null', 'r'], ['pipe', 'w']], $pipes);
    $child = ['output' => stream_get_contents($pipes[1]), 'status' => proc_close($process)];
}
while (($left = $end - hrtime(true)) > 0) {
    usleep(max(1, intdiv($left, 1000)));
}
// A worker is as old as its master, which owns the opcache.
$master = posix_getppid();
$stat = file_get_contents("/proc/$master/stat");
$start = explode(' ', substr($stat, strrpos($stat, ') ') + 2))[19];
$answer = json_encode([
    'id' => $id,
    'server' => SERVERS[$_SERVER['SERVER_PORT']] ?? 'generations',
    'generation' => "$master@$start",
    'instance' => getenv('GENERATION') ?: null,
    'version' => $version,
    'child' => $child,
]);
file_put_contents(MARKERS, "end $id\n", FILE_APPEND);
header('Content-Type: application/json');
header('Content-Length: ' . strlen($answer));
echo $answer;
"#;

/// Writes `/work.php` and an empty [`MARKERS`], and deploys the first version.
pub(crate) fn install(host: &Host, version: &str) -> Result<()> {
    host.write("/srv/app/work.php", WORK)?;
    deploy(host, version)?;
    host.sh_ok(&format!("install -d -o www-data -g www-data /var/log/app && install -o www-data -g www-data /dev/null {MARKERS}"))?;
    Ok(())
}

/// Puts a new version of the code in place by rename(2).
pub(crate) fn deploy(host: &Host, version: &str) -> Result<()> {
    // Opcache does not hold files whose mtime is less than 2 s ago, and a deploy keeps the sender's.
    host.write("/srv/app/version.php.new", version_php(version))?;
    host.sh_ok("cd /srv/app && touch -d '1 hour ago' version.php.new work.php && mv version.php.new version.php").map(drop)
}

/// A file that returns its version when it is included, and prints it when it is asked for itself.
fn version_php(version: &str) -> String {
    let quoted = version.replace('\\', r"\\").replace('\'', r"\'");
    format!(
        "<?php\nif (!debug_backtrace()) {{\n    header('Content-Length: ' . strlen('{quoted}'));\n    echo '{quoted}';\n}}\nreturn '{quoted}';\n"
    )
}
