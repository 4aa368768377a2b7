<?php
// How full the opcache of this php-fpm is, for restart-agent on the same host, which asks over php-fpm's own socket. Figures only: no paths, no scripts.
// A web server that was led here by mistake gets 403: what it passes on of a visitor are headers (HTTP_*), and the mark below is none.

if (PHP_SAPI !== 'fpm-fcgi' || ($_SERVER['RESTART_AGENT_ASKS'] ?? '') !== 'opcache') {
    http_response_code(403);
    exit("for restart-agent only\n");
}

$restricted = (string)ini_get('opcache.restrict_api');
$status = function_exists('opcache_get_status') ? @opcache_get_status(false) : null;
if (is_array($status)) {
    $wanted = ['opcache_enabled', 'cache_full', 'file_cache_only', 'restart_pending', 'restart_in_progress', 'memory_usage', 'opcache_statistics'];
    $answer = ['status' => array_intersect_key($status, array_flip($wanted))];
} elseif ($status === null) {
    $answer = ['status' => false, 'why' => 'no-opcache'];
} elseif ($restricted !== '' && strncmp(__FILE__, $restricted, strlen($restricted)) !== 0) {
    $answer = ['status' => false, 'why' => 'restricted'];
} else {
    $answer = ['status' => false, 'why' => 'off'];
}
header('Content-Type: application/json');
header('Cache-Control: no-store');
// On a line of its own, whatever the pool's auto_prepend_file has said before.
echo "\n", json_encode($answer), "\n";
