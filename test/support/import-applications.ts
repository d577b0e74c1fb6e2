/**
 * How well-known applications are put behind nginx, as their documentation asks for it, in words of our own: configuration
 * trees for the proof of the importer, which finds its requests itself. What they serve are made-up files.
 */

export interface Application {
  readonly name: string
  /** Contents by path below the directory of nginx.conf. */
  files(directory: string): Readonly<Record<string, string>>
}

const TYPES =
  'types { text/html html; text/css css; application/javascript js; image/png png; image/svg+xml svg; text/plain txt; }'

function main(http: string): string {
  return `user www-data;\nevents { worker_connections 512; }\nhttp {\n${TYPES}\ndefault_type application/octet-stream;\n${http}\n}\n`
}

/** A blog in PHP: permalinks, no programs among uploads, what robots and guessers ask for. */
const WORDPRESS: Application = {
  name: 'WordPress',
  files: (directory) => ({
    'www/index.php': 'program\n',
    'www/wp-login.php': 'program\n',
    'www/style.css': 'a {}\n',
    'www/robots.txt': 'none\n',
    'www/wp-content/uploads/x.php': 'program\n',
    'nginx.conf': main(`
      upstream fpm { server unix:/run/php/fpm.sock; }
      limit_req_zone $binary_remote_addr zone=login:1m rate=100r/s;
      include sites/*;`),
    'sites/blog': `
      server {
        listen 80; listen [::]:80;
        server_name blog.example www.blog.example;
        root ${directory}/www;
        index index.php;
        client_max_body_size 64m;
        location = /favicon.ico { log_not_found off; access_log off; }
        location = /robots.txt { allow all; log_not_found off; access_log off; }
        location = /xmlrpc.php { deny all; }
        location / { try_files $uri $uri/ /index.php?$args; }
        location ~* /(?:uploads|files)/.*\\.php$ { deny all; }
        location = /wp-login.php { limit_req zone=login burst=50 nodelay; include fastcgi.inc; fastcgi_pass fpm; }
        location ~ \\.php$ { include fastcgi.inc; fastcgi_intercept_errors on; fastcgi_pass fpm; }
        location ~* \\.(?:js|css|png|jpg|gif|ico)$ { expires max; log_not_found off; }
      }`,
    'fastcgi.inc': `
      fastcgi_index index.php;
      fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_URI $request_uri;
      fastcgi_param SERVER_NAME $server_name;`,
  }),
}

/** Files in the cloud, in PHP: paths after the program's name, discovery, pages that nobody may see. */
const NEXTCLOUD: Application = {
  name: 'Nextcloud',
  files: (directory) => ({
    'www/index.php': 'program\n',
    'www/core/img/logo.svg': '<svg/>\n',
    'www/robots.txt': 'none\n',
    'nginx.conf': main(`
      upstream php-handler { server 127.0.0.1:9000; }
      map $arg_v $asset_immutable { "" ""; default ", immutable"; }
      server {
        listen 80;
        server_name cloud.example;
        return 301 https://$server_name$request_uri;
      }
      server {
        listen 443 ssl http2;
        server_name cloud.example;
        ssl_certificate /etc/ssl/cloud.pem;
        ssl_certificate_key /etc/ssl/cloud.key;
        root ${directory}/www;
        client_max_body_size 512M;
        client_body_timeout 300s;
        gzip on; gzip_vary on; gzip_types application/json text/css;
        add_header Referrer-Policy "no-referrer" always;
        add_header X-Content-Type-Options "nosniff" always;
        fastcgi_hide_header X-Powered-By;
        index index.php index.html /index.php$request_uri;
        location = / { if ($http_user_agent ~ ^DavClnt) { return 302 /remote.php/webdav/$is_args$args; } }
        location = /robots.txt { allow all; log_not_found off; access_log off; }
        location ^~ /.well-known {
          location = /.well-known/carddav { return 301 /remote.php/dav/; }
          location = /.well-known/caldav { return 301 /remote.php/dav/; }
          return 301 /index.php$request_uri;
        }
        location ~ ^/(?:build|tests|config|lib|3rdparty|templates|data)(?:$|/) { return 404; }
        location ~ ^/(?:\\.|autotest|occ|issue|indie|db_|console) { return 404; }
        location ~ \\.php(?:$|/) {
          rewrite ^/(?!index|remote|public|cron|status) /index.php$request_uri;
          fastcgi_split_path_info ^(.+?\\.php)(/.*)$;
          set $path_info $fastcgi_path_info;
          fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
          fastcgi_param PATH_INFO $path_info;
          fastcgi_param HTTPS on;
          fastcgi_pass php-handler;
        }
        location ~ \\.(?:css|js|svg|gif)$ {
          try_files $uri /index.php$request_uri;
          add_header Cache-Control "public, max-age=15778463$asset_immutable";
        }
        location /remote { return 301 /remote.php$request_uri; }
        location / { try_files $uri $uri/ /index.php$request_uri; }
      }`),
  }),
}

/** A forge behind a socket: long polls, large pushes, pages of its own for errors. */
const GITLAB: Application = {
  name: 'GitLab',
  files: (directory) => ({
    'www/404.html': 'no such page\n',
    'www/502.html': 'one moment\n',
    'nginx.conf': main(`
      upstream workhorse { server unix:/var/opt/forge/socket fail_timeout=0; }
      map $http_upgrade $connection_upgrade_forge { default upgrade; '' close; }
      map $request_uri $request_uri_filtered { ~(?<head>.+)[?&]private_token=[^&]* $head; default $request_uri; }
      server {
        listen 0.0.0.0:80 default_server;
        listen [::]:80 ipv6only=on default_server;
        server_name forge.example;
        server_tokens off;
        client_max_body_size 0;
        access_log /var/log/nginx/forge.log;
        error_log /var/log/nginx/forge-error.log;
        location / {
          gzip off;
          proxy_read_timeout 300;
          proxy_connect_timeout 300;
          proxy_redirect off;
          proxy_http_version 1.1;
          proxy_set_header Host $http_host;
          proxy_set_header X-Real-IP $remote_addr;
          proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
          proxy_set_header X-Forwarded-Proto $scheme;
          proxy_set_header X-Asked "$request_uri_filtered";
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Connection $connection_upgrade_forge;
          proxy_pass http://workhorse;
        }
        location ~ ^/[\\w.-]+/[\\w.-]+/(?:git-receive-pack|gitlab-lfs/objects)$ {
          proxy_request_buffering off;
          proxy_set_header Host $http_host;
          proxy_pass http://workhorse;
        }
        error_page 404 /404.html;
        error_page 502 /502.html;
        location ~ ^/(?:404|502)(?:-custom)?\\.html$ { root ${directory}/www; internal; }
      }`),
  }),
}

/** Dashboards below a path, with live updates, and the metrics beside them under a password. */
const GRAFANA: Application = {
  name: 'Grafana and Prometheus',
  files: () => ({
    users: 'ann:$apr1$x$x\n',
    'nginx.conf': main(`
      map $http_upgrade $connection_upgrade { default upgrade; '' close; }
      upstream grafana { server localhost:3000; }
      server {
        listen 80;
        server_name metrics.example;
        rewrite ^/grafana$ /grafana/ permanent;
        location /grafana/ {
          rewrite ^/grafana/(.*) /$1 break;
          proxy_set_header Host $host;
          proxy_pass http://grafana;
        }
        location /grafana/api/live/ {
          rewrite ^/grafana/(.*) /$1 break;
          proxy_http_version 1.1;
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Connection $connection_upgrade;
          proxy_set_header Host $host;
          proxy_pass http://grafana;
        }
        location /prometheus/ {
          auth_basic "metrics";
          auth_basic_user_file users;
          proxy_pass http://127.0.0.1:9090/prometheus/;
        }
        location = /-/healthy { access_log off; proxy_pass http://127.0.0.1:9090; }
        location /alerts { proxy_pass http://127.0.0.1:9093/; proxy_set_header X-Scope team; }
        location / { return 302 /grafana/; }
      }`),
  }),
}

/** A build server: files of its plugins by name, terminals, uploads of any size, redirects made right. */
const JENKINS: Application = {
  name: 'Jenkins',
  files: (directory) => ({
    'jenkins/war/images/a.png': 'png\n',
    'jenkins/userContent/readme.html': 'read me\n',
    'nginx.conf': main(`
      upstream jenkins { keepalive 32; server 127.0.0.1:8080; }
      map $http_upgrade $connection_upgrade { default upgrade; '' close; }
      server {
        listen 80;
        server_name ci.example;
        root ${directory}/jenkins/war/;
        ignore_invalid_headers off;
        location ~ "^/static/[0-9a-fA-F]{8}\\/(.*)$" { rewrite "^/static/[0-9a-fA-F]{8}\\/(.*)" /$1 last; }
        location /userContent {
          root ${directory}/jenkins;
          if (!-f $request_filename) { rewrite (.*) /$1 last; break; }
          sendfile on;
        }
        location /images/ { expires 1d; }
        location / {
          sendfile off;
          proxy_pass http://jenkins;
          proxy_redirect default;
          proxy_http_version 1.1;
          proxy_set_header Connection $connection_upgrade;
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Host $http_host;
          proxy_set_header X-Real-IP $remote_addr;
          proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
          proxy_set_header X-Forwarded-Proto $scheme;
          proxy_max_temp_file_size 0;
          client_max_body_size 10m;
          client_body_buffer_size 128k;
          proxy_connect_timeout 90;
          proxy_send_timeout 90;
          proxy_read_timeout 90;
          proxy_request_buffering off;
        }
      }`),
  }),
}

/** An application in Python: its files by nginx, all else by the application when there is no such file. */
const DJANGO: Application = {
  name: 'Django with gunicorn',
  files: (directory) => ({
    'site/static/app.css': 'a {}\n',
    'site/media/a b.txt': 'text\n',
    'site/500.html': 'sorry\n',
    'nginx.conf': main(`
      upstream app_server { server unix:/tmp/gunicorn.sock fail_timeout=0; }
      server { listen 80 default_server; return 444; }
      server {
        listen 80 deferred;
        client_max_body_size 4G;
        server_name app.example *.app.example;
        keepalive_timeout 5;
        root ${directory}/site;
        location /static/ { alias ${directory}/site/static/; expires 30d; add_header Cache-Control public; }
        location /media/ { alias ${directory}/site/media/; }
        location /ws/ {
          proxy_pass http://app_server;
          proxy_http_version 1.1;
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Connection "Upgrade";
          proxy_set_header Host $http_host;
        }
        location / { try_files $uri @proxy_to_app; }
        location @proxy_to_app {
          proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
          proxy_set_header X-Forwarded-Proto $scheme;
          proxy_set_header Host $http_host;
          proxy_redirect off;
          proxy_pass http://app_server;
        }
        error_page 500 502 503 504 /500.html;
        location = /500.html { internal; }
      }`),
  }),
}

/** A social network: assets that never change, a stream, pages that are cached for a moment. */
const MASTODON: Application = {
  name: 'Mastodon',
  files: (directory) => ({
    'public/packs/a.js': '1\n',
    'public/sw.js': '2\n',
    'public/500.html': 'sorry\n',
    'public/avatars/me.png': 'png\n',
    'nginx.conf': main(`
      map $http_upgrade $connection_upgrade { default upgrade; '' close; }
      upstream backend { server 127.0.0.1:3000 fail_timeout=0; }
      upstream streaming { least_conn; server 127.0.0.1:4000 fail_timeout=0; }
      proxy_cache_path /var/cache/nginx/pages levels=1:2 keys_zone=CACHE:1m inactive=7d max_size=1g;
      server { listen 80; server_name social.example; location /.well-known/acme-challenge/ { allow all; } location / { return 301 https://$host$request_uri; } }
      server {
        listen 443 ssl http2;
        server_name social.example;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate /etc/ssl/social.pem;
        ssl_certificate_key /etc/ssl/social.key;
        keepalive_timeout 70;
        sendfile on;
        client_max_body_size 99m;
        root ${directory}/public;
        gzip on; gzip_disable "msie6"; gzip_proxied any; gzip_comp_level 6; gzip_types text/plain text/css;
        location / { try_files $uri @proxy; }
        location = /sw.js { add_header Cache-Control "public, max-age=604800, must-revalidate"; try_files $uri =404; }
        location ~ ^/(?:assets|avatars|emoji|headers|packs|shortcuts|sounds)/ {
          add_header Cache-Control "public, max-age=2419200, must-revalidate";
          add_header Strict-Transport-Security "max-age=63072000; includeSubDomains";
          try_files $uri =404;
        }
        location ^~ /api/v1/streaming {
          proxy_set_header Host $host;
          proxy_set_header X-Real-IP $remote_addr;
          proxy_set_header Proxy "";
          proxy_pass http://streaming;
          proxy_buffering off;
          proxy_redirect off;
          proxy_http_version 1.1;
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Connection $connection_upgrade;
          tcp_nodelay on;
        }
        location @proxy {
          proxy_set_header Host $host;
          proxy_set_header X-Real-IP $remote_addr;
          proxy_set_header Proxy "";
          proxy_pass_header Server;
          proxy_pass http://backend;
          proxy_buffering on;
          proxy_redirect off;
          proxy_http_version 1.1;
          proxy_cache CACHE;
          proxy_cache_valid 200 7d;
          proxy_cache_valid 410 24h;
          proxy_cache_use_stale error timeout updating http_500 http_502 http_503 http_504;
          add_header X-Cached $upstream_cache_status;
          tcp_nodelay on;
        }
        error_page 404 500 501 502 503 504 /500.html;
      }`),
  }),
}

/** A registry of images: bodies of any size, one header only where it is missing, old clients turned away. */
const REGISTRY: Application = {
  name: 'Docker registry',
  files: () => ({
    'conf/registry.password': 'ann:$apr1$x$x\n',
    'nginx.conf': main(`
      upstream docker-registry { server registry.internal:5000; }
      map $upstream_http_docker_distribution_api_version $docker_distribution_api_version { '' 'registry/2.0'; }
      server {
        listen 443 ssl;
        server_name registry.example;
        ssl_certificate /etc/ssl/registry.crt;
        ssl_certificate_key /etc/ssl/registry.key;
        ssl_session_cache shared:SSL:10m;
        client_max_body_size 0;
        chunked_transfer_encoding on;
        location /v2/ {
          if ($http_user_agent ~ "^(docker\\/1\\.(3|4|5(?!\\.[0-9]-dev))|Go ).*$") { return 404; }
          add_header 'Docker-Distribution-Api-Version' $docker_distribution_api_version always;
          proxy_pass http://docker-registry;
          proxy_set_header Host $http_host;
          proxy_set_header X-Real-IP $remote_addr;
          proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
          proxy_set_header X-Forwarded-Proto $scheme;
          proxy_read_timeout 900;
        }
        location /v2/private/ {
          auth_basic "Registry realm";
          auth_basic_user_file conf/registry.password;
          proxy_pass http://docker-registry;
        }
        location = / { default_type text/plain; return 200 "a registry\\n"; }
        location /v1/ { return 404; }
      }`),
  }),
}

/** A wiki in PHP: short addresses, images behind a program, one location within another. */
const MEDIAWIKI: Application = {
  name: 'MediaWiki',
  files: (directory) => ({
    'w/index.php': 'program\n',
    'w/resources/a.css': 'a {}\n',
    'w/images/deleted/x': 'gone\n',
    'w/images/a.png': 'png\n',
    'nginx.conf': main(`
      geo $is_office { default 0; 10.0.0.0/8 1; }
      server {
        listen 80;
        server_name wiki.example;
        root ${directory};
        client_max_body_size 5m;
        client_body_timeout 60;
        location ~ ^/w/(?:index|load|api|thumb|opensearch_desc|rest|img_auth)\\.php$ {
          fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
          fastcgi_param OFFICE $is_office;
          fastcgi_pass 127.0.0.1:9000;
        }
        location /w/images { }
        location /w/images/deleted { deny all; }
        location ~ ^/w/resources/(?:assets|lib|src) { try_files $uri =404; add_header Cache-Control "public"; expires 7d; }
        location /w/rest.php/ { try_files $uri $uri/ /w/rest.php?$query_string; }
        location /wiki/ { rewrite ^/wiki/(?<pagename>.*)$ /w/index.php; }
        location = /robots.txt { }
        location = / { return 301 /wiki/Main_Page; }
        location / { return 404; }
      }`),
  }),
}

/** A forge with its pages below a name and below a path, assets by nginx, and git over SSH on a port beside: an address of its own for each. */
const GITEA: Application = {
  name: 'Gitea, with SSH beside',
  files: (directory) => ({
    'public/assets/css/index.css': 'a {}\n',
    'public/assets/img/logo.svg': '<svg/>\n',
    'nginx.conf': `user www-data;
      include modules/*.conf;
      events { worker_connections 512; }
      stream {
        log_format flows '$remote_addr $bytes_sent';
        upstream forge_ssh { least_conn; server 127.0.0.1:2222 max_fails=2; }
        map $ssl_preread_server_name $by_name {
          hostnames;
          git.example web;
          *.pages.example pages;
          .packages.example 127.0.0.1:5443;
          default web;
        }
        upstream web { server 127.0.0.1:8443; }
        upstream pages { least_conn; server 127.0.0.1:9443; server 127.0.0.1:9444; }
        server { listen 2200; listen [::]:2200; proxy_pass forge_ssh; proxy_timeout 1h; proxy_connect_timeout 5s; access_log /var/log/ssh.log flows; }
        server { listen 443; ssl_preread on; proxy_pass $by_name; proxy_protocol on; }
        server { listen 5353 udp; proxy_pass 127.0.0.1:53; proxy_responses 1; proxy_timeout 2s; }
        server { listen 2201 proxy_protocol; proxy_pass forge_ssh; allow 127.0.0.0/8; allow 192.0.2.0/24; deny all; }
        server { listen 2202; proxy_pass forge_ssh; deny 127.0.0.1; }
      }
      http { ${TYPES}
        default_type application/octet-stream;
        server {
          listen 80;
          server_name git.example;
          client_max_body_size 512M;
          location /assets/ { alias ${directory}/public/assets/; expires 6h; }
          location / {
            proxy_pass http://localhost:3000;
            proxy_set_header Connection $http_connection;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
          }
          location ~ ^/[^/]+/[^/]+/(?:info/refs|git-upload-pack|git-receive-pack)$ {
            proxy_request_buffering off;
            proxy_buffering off;
            proxy_read_timeout 600;
            proxy_set_header Host $host;
            proxy_pass http://localhost:3000;
          }
          location = /robots.txt { default_type text/plain; return 200 "User-agent: *\nDisallow: /"; }
        }
        server {
          listen 80;
          server_name intranet.example;
          location = /git { return 301 /git/; }
          location ~ ^/(git|v2)($|/) {
            client_max_body_size 512M;
            rewrite ^ $request_uri;
            rewrite ^(/git)?(/.*) $2 break;
            proxy_pass http://127.0.0.1:3000$uri;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
          }
          location / { return 404; }
        }
      }`,
    'modules/stream.conf': 'load_module modules/ngx_stream_module.so;\n',
  }),
}

/** Chat among servers: two ports for clients and for other servers, answers made of text, workers by path, what only the office may ask. */
const SYNAPSE: Application = {
  name: 'Matrix Synapse',
  files: () => ({
    'nginx.conf': main(`
      upstream synapse { server 127.0.0.1:8008; keepalive 16; }
      upstream sync_worker { hash $remote_addr; server 127.0.0.1:8083; server 127.0.0.1:8084; }
      upstream media { server 127.0.0.1:8085; }
      server {
        listen 443 ssl http2;
        listen [::]:443 ssl http2;
        listen 8448 ssl http2 default_server;
        listen [::]:8448 ssl http2 default_server;
        server_name matrix.example;
        ssl_certificate /etc/ssl/matrix.pem;
        ssl_certificate_key /etc/ssl/matrix.key;
        location ~ ^/_matrix/client/(?:r0|v3)/sync$ {
          proxy_pass http://sync_worker;
          proxy_read_timeout 1h;
          proxy_set_header Host $host:$server_port;
          proxy_set_header X-Forwarded-For $remote_addr;
          proxy_set_header X-Forwarded-Proto $scheme;
        }
        location ^~ /_matrix/media/ { client_max_body_size 100M; proxy_pass http://media; proxy_set_header Host $host; proxy_hide_header X-Worker; }
        location ~ ^(?:/_matrix|/_synapse/client) {
          proxy_pass http://synapse;
          proxy_set_header X-Forwarded-For $remote_addr;
          proxy_set_header X-Forwarded-Proto $scheme;
          proxy_set_header Host $host:$server_port;
          client_max_body_size 50M;
          proxy_http_version 1.1;
        }
        location /_synapse/admin { allow 127.0.0.1; allow 10.0.0.0/8; deny all; proxy_pass http://synapse; }
        location /_synapse/metrics { deny all; }
      }
      server {
        listen 80;
        server_name example.test;
        location /.well-known/matrix/client {
          default_type application/json;
          add_header Access-Control-Allow-Origin *;
          return 200 '{"m.homeserver": {"base_url": "https://matrix.example"}}';
        }
        location = /.well-known/matrix/server { default_type application/json; return 200 '{"m.server": "matrix.example:443"}'; }
        location / { return 301 https://chat.example.test$request_uri; }
      }`),
  }),
}

/** Who people are, for other applications: only some paths for everybody, the console for the office, larger headers, a page while it starts. */
const KEYCLOAK: Application = {
  name: 'Keycloak',
  files: (directory) => ({
    'pages/starting.html': 'one moment\n',
    users: 'ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n',
    'nginx.conf': main(`
      upstream keycloak { ip_hash; server 127.0.0.1:8080; server 127.0.0.1:8081; }
      server {
        listen 80 default_server;
        server_name id.example;
        root ${directory}/pages;
        error_page 502 503 504 /starting.html;
        gzip on; gzip_vary on; gzip_proxied any; gzip_types application/json text/css;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Port $server_port;
        proxy_buffers 8 16k;
        proxy_buffer_size 16k;
        location = /starting.html { internal; }
        location = / { return 302 /realms/main/account/; }
        location /realms/ { proxy_pass http://keycloak; proxy_next_upstream error timeout http_503; proxy_next_upstream_tries 2; proxy_intercept_errors on; }
        location /resources/ { proxy_pass http://keycloak; proxy_hide_header X-Frame-Options; }
        location = /robots.txt { proxy_pass http://keycloak; }
        location /admin/ { allow 10.0.0.0/8; allow 127.0.0.1; deny all; proxy_pass http://keycloak; proxy_buffers 8 32k; proxy_buffer_size 32k; }
        location /metrics { auth_basic "metrics"; auth_basic_user_file users; proxy_pass http://keycloak; }
        location /health { deny all; }
        location /auth/ { rewrite ^/auth/(.*)$ /$1 permanent; }
        location / { return 404; }
      }`),
  }),
}

export const APPLICATIONS: readonly Application[] = [
  WORDPRESS,
  NEXTCLOUD,
  GITLAB,
  GRAFANA,
  JENKINS,
  DJANGO,
  MASTODON,
  REGISTRY,
  MEDIAWIKI,
  GITEA,
  SYNAPSE,
  KEYCLOAK,
]
