// server.h: pages and WebSockets on a port of this machine, by libwebsockets. Knows nothing of music.
#ifndef PA_SERVER_H
#define PA_SERVER_H

#include <signal.h>

#include "host/serve/hub.h"

typedef struct {
    const char *path; // "/"
    const char *type; // of its content
    const unsigned char *bytes;
    size_t count;
} pa_asset;

typedef struct pa_server pa_server;

// Binds the port of 127.0.0.1, 0 for a free one, and makes the hub. The assets stay the caller's. Of requests, only
// those whose Host is this address are answered, and only pages from here get a WebSocket: no other site's page can
// reach it.
pa_status pa_server_open(pa_server **server, int port, const pa_asset *asset, size_t assets, pa_err *err);
void pa_server_close(pa_server *s);
int pa_server_port(const pa_server *s);
pa_hub *pa_server_hub(pa_server *s);
// Serves until *stop; pa_server_wake makes it look, from a signal handler too.
void pa_server_run(pa_server *s, const volatile sig_atomic_t *stop);
void pa_server_wake(pa_server *s);

#endif
