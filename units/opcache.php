<?php
// Requested by restart-agent over FastCGI: how full the opcache of this php-fpm is. Nothing else.
header('Content-Type: application/json');
echo json_encode(function_exists('opcache_get_status') ? @opcache_get_status(false) : false);
